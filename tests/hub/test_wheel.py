from pushsvc.hub.delivery.wheel import Wheel


class Rider:
    def __init__(self):
        self.took = 0
        self.closed = False


def test_silence_is_broken_after_its_ticks_and_what_was_sent_meanwhile_counts():
    wheel = Wheel(5)
    silent, busy, gone = Rider(), Rider(), Rider()
    for rider in (silent, busy, gone):
        wheel.add(rider)
    due = []
    for tick in range(1, 13):
        if tick in (3, 6):
            busy.took = wheel.tick
        if tick == 4:
            gone.closed = True
        for rider in wheel.turn():
            due.append((tick, rider))
            rider.took = tick
            wheel.add(rider)
    assert due == [(5, silent), (10, silent), (10, busy)]


def test_a_silence_of_one_tick():
    wheel, rider = Wheel(1), Rider()
    wheel.add(rider)
    for tick in range(1, 4):
        assert wheel.turn() == [rider]
        rider.took = tick
        wheel.add(rider)
