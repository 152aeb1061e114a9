"""Made data: images with a known signal, for tests, demos and benchmarks. No patients."""
