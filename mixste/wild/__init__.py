"""Lifting of a user's own videos and keypoints: detectors' files in, 3D poses, pictures and ONNX out."""
