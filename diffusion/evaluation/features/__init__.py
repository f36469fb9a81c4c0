"""What images are compared by: one file for each extractor, all with the interface of `base.Features`."""
