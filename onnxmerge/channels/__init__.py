"""Which axes shrink together: rules for operators, and the channel groups that follow from them."""
