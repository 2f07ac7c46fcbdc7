"""When the student answers and when it hands over: confidence, certificate, policy, router.

Notable: the certificate is proved once, on the calibration split; ``cascade.policy.decide`` is a pure
function that applies it; ``cascade.router`` carries decisions out. Not here: the statistics (``stats``),
the bundle's files (``bundle``), HTTP (``gateway``).
"""
