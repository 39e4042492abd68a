"""What the Nüwa paper measures inside a model: who attends to whom, how far, and what that is worth for an answer.

`measures` are the quantities as pure functions, `gradients` reads attention times gradient off a running model,
`survey` and `structure` turn samples of a benchmark into records.
"""
