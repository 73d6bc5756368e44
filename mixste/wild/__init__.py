"""People's own videos and keypoints: lifted, looked at and taken along."""
