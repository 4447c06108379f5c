"""What tests of an engine need, shipped with the package: see `engine_conformance`."""
