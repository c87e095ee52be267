"""Import results of other load generators as evidence, noting each conversion."""
