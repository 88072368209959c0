"""From a budget to a plan: how many channels each group keeps, which, and how the others are expressed."""
