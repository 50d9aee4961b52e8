"""The watermark service: puts invisible marks into images and text, and detects these marks."""
