"""What tests of a hub do to it."""


def count_as_listed(hub):
    """Let every group with patterns go without a list of the topics that exist: the test adds topics itself."""
    hub.feed.directory._unlisted.clear()


def captured(group):
    """Return a list that gets what the group broadcasts, in place of its connections."""
    messages = []
    group.channel.broadcast = messages.extend
    return messages
