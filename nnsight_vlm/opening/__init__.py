"""What lies in a folder or on the hub: whether it can be opened, and the processor that is made of it."""
