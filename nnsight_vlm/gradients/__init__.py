"""What a small change would do: estimates of patches, and saliency."""
