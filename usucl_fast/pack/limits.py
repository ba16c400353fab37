"""What one video may take, where nobody says otherwise."""

TIME_LIMIT = 60.0
"""Seconds without a picture after which a video is left out."""
