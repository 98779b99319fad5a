"""Values in context: how far a few examples before a prompt move the values of a reply, and at what cost."""
