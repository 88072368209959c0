"""What a network costs as a function of the channels that it keeps: MACs, parameters, time."""
