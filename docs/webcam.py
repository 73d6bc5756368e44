"""Lifts a webcam: python docs/webcam.py [camera number or video], with the extra `video`. Ctrl-C ends it."""

import sys

import cv2  # comes with MediaPipe
import numpy as np
from mediapipe.python.solutions.pose import Pose

from mixste import MixSTE
from mixste.camera import normalize_screen
from mixste.data.readers.detections import LAYOUTS, to_human36m
from mixste.wild.export import stream
from mixste.wild.video import native_code_silenced


def webcam(camera):
    """Keypoints of the 17 joints in each picture with a person, screen-normalised: (17, 2)."""
    video = cv2.VideoCapture(camera)
    if not video.isOpened():
        raise SystemExit(f"expected a camera or a video, found none at {camera}")
    detector = Pose()
    while True:
        success, picture = video.read()
        if not success:
            return
        marks = detector.process(np.ascontiguousarray(picture[..., ::-1])).pose_landmarks
        if marks:
            height, width = picture.shape[:2]
            points = np.array([[(mark.x * width, mark.y * height) for mark in marks.landmark]])
            yield normalize_screen(to_human36m(points, LAYOUTS["mediapipe33"])[0], width, height)


if __name__ == "__main__":
    camera = sys.argv[1] if len(sys.argv) > 1 else "0"
    keypoints = webcam(int(camera) if camera.isdigit() else camera)
    # The network runs once in five frames and gives five poses, five to nine frames after their pictures.
    with native_code_silenced():  # MediaPipe's
        for pose in stream(MixSTE.from_pretrained("open-small"), keypoints, delay=5, flip=False, every=5):
            print("left wrist, metres right of, below and behind the hip:", pose[13].round(2))
