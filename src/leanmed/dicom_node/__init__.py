"""A node of a hospital's DICOM network: series in, answers out as SEG, SR and secondary captures; no torch."""
