"""Write statements of the publisher."""
