"""Groups: equal subscriptions share one channel."""
