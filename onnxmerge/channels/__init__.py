"""Which axes shrink together: rules for operators, and the groups that they add up to."""
