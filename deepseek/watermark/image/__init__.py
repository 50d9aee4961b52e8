"""Marks in images: `marker` embeds them, `detector` finds them, `files` reads and writes image files."""
