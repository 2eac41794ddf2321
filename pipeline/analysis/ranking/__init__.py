"""What makes an image suspect: its label, its cue, its focus; strengths, order and words."""
