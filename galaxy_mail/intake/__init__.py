"""The ways by which a delivery is made: a request, a stream command, a resend."""
