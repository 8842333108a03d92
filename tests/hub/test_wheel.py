from pushsvc.hub.delivery.wheel import Clock, Wheel


class Item:
    def __init__(self):
        self.last_sent = 0
        self.closed = False


def test_item_is_due_after_a_silence_measured_from_its_last_send():
    clock = Clock()
    wheel = Wheel(clock, 5)
    silent, busy, gone = Item(), Item(), Item()
    for item in (silent, busy, gone):
        wheel.add(item)
    due = []
    for tick in range(1, 13):
        if tick in (3, 6):
            busy.last_sent = clock.tick
        if tick == 4:
            gone.closed = True
        for item in wheel.turn():
            due.append((tick, item))
            item.last_sent = tick
            wheel.add(item)
    assert due == [(5, silent), (10, silent), (10, busy)]


def test_silence_may_be_a_single_tick():
    wheel, item = Wheel(Clock(), 1), Item()
    wheel.add(item)
    for tick in range(1, 4):
        assert wheel.turn() == [item]
        item.last_sent = tick
        wheel.add(item)
