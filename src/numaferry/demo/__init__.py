"""`make demo`: the main job on real hosts, told as a story, each claim of it proven in a way that can fail."""
