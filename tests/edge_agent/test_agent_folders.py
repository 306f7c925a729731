"""Any crash, any copy, any restored folder, any two agents: one final per event, and its own."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.support.agent_homes import Cloud, Home

from setsuden.schemas.result import Status, Tier

HOME = st.integers(0, 1)


class Folders(RuleBasedStateMachine):
    """Two state folders of one device name, in any order of misfortunes, then peace."""

    def __init__(self) -> None:
        super().__init__()
        self.cloud = Cloud()
        self.homes = [Home(self.cloud), Home(self.cloud)]

    @rule(hard=st.booleans())
    def publish(self, hard: bool) -> None:
        self.cloud.stream.append((self.cloud.new_content(), hard))

    @rule(home=HOME, hard=st.booleans())
    def submit(self, home: int, hard: bool) -> None:
        if self.homes[home].core.has_room:
            self.homes[home].submit_local(hard)

    @rule(home=HOME)
    def read(self, home: int) -> None:
        if self.homes[home].core.has_room:
            self.homes[home].read_one()

    @rule(home=HOME, arrives=st.booleans(), answered=st.booleans(), count=st.integers(1, 4))
    def perform(self, home: int, arrives: bool, answered: bool, count: int) -> None:
        for _ in range(count):
            self.homes[home].perform(arrives=arrives, answered=answered)

    @rule()
    def work(self) -> None:
        self.cloud.work()

    @rule(home=HOME)
    def connect(self, home: int) -> None:
        """The lease: while one is connected, the other is refused."""
        if not self.homes[1 - home].link_up and not self.homes[home].link_up:
            self.homes[home].connect()

    @rule(home=HOME)
    def disconnect(self, home: int) -> None:
        self.homes[home].disconnect()

    @rule(home=HOME, seconds=st.sampled_from([0.05, 6.0, 70.0]))
    def advance(self, home: int, seconds: float) -> None:
        self.homes[home].advance(seconds)

    @rule(home=HOME)
    def crash(self, home: int) -> None:
        self.homes[home].start()

    @rule(home=HOME)
    def lose_folder(self, home: int) -> None:
        self.homes[home].lose()

    @rule(home=HOME)
    def keep_backup(self, home: int) -> None:
        self.homes[home].keep_backup()

    @rule(home=HOME)
    def restore_backup(self, home: int) -> None:
        self.homes[home].restore_backup()

    @rule(home=HOME)
    def copy_folder(self, home: int) -> None:
        self.homes[home].copy_of(self.homes[1 - home])

    @invariant()
    def every_answer_is_of_its_own_event(self) -> None:
        for content, results in self.cloud.told.items():
            for result in results:
                assert result.answer is not None
                assert result.answer.label == str(content)

    @invariant()
    def one_record_of_each_event(self) -> None:
        for event_id, record in self.cloud.results.items():
            assert record.event_id == event_id

    def teardown(self) -> None:
        for home in self.homes:
            home.disconnect()
        for home in self.homes:
            home.heal()
            home.disconnect()
        self.every_answer_is_of_its_own_event()
        for home in self.homes:
            for row in home.disk.values():
                assert row.result.status is not Status.DEAD  # nothing hostile is about
                if row.result.tier is Tier.CLOUD:
                    assert self.cloud.results[row.event_id].answer == row.result.answer


Folders.TestCase.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None, print_blob=True
)
TestFolders = Folders.TestCase
