"""Statistics of the signals of a network, from its weights, its BatchNormalizations, or samples."""
