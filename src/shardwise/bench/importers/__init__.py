"""Results of other load generators as evidence, their terms converted and each conversion noted."""
