"""What the signals of a network look like: from its weights, its BatchNormalizations, or samples."""
