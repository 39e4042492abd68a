"""What the Nüwa paper measures inside a model: who attends to whom, how far, and what that is worth for an answer.

`groups` says who is who, `measures` are the quantities as pure functions, `calls` and `gradients` read them off a
running model layer by layer, `tower` off its vision tower, `blocking` cuts attention, `failures` compares two runs.
"""
