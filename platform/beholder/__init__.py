"""beholder: one base model, every reader's view.

People disagree about whether a text is angry, hateful or polite, and they disagree consistently. beholder learns each
person's view, measures honestly whether that pays, registers what won and serves it.
"""

__version__ = "0.1.0"
