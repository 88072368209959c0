"""Make a plan that meets a budget: how many channels each group keeps, which, and how the others are expressed."""
