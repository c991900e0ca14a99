"""What wraps every HTTP request: keys, body limits, logs, drain."""
