"""From records and the answers to them to a report: of a run, of an artifact, or of a file of answers."""
