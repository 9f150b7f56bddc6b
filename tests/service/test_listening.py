"""The port of the service: free, taken, or handed over by a parent."""

import os
import socket
from contextlib import closing

import pytest

from service import listening
from understudy import settings
from understudy.errors import SettingsRefused
from understudy.settings import ServiceSettings


def test_it_is_bound_and_does_not_listen_before_somebody_is_ready():
    """Until then, whoever connects is refused rather than left waiting."""
    with closing(listening.bind(settings.read(ServiceSettings, port=0))) as bound, socket.socket() as probe:
        address = bound.getsockname()
        assert listening.address_of(bound) == f"http://127.0.0.1:{address[1]}"
        assert probe.connect_ex(address) != 0


def test_the_event_loop_can_switch_off_nagles_delay():
    """asyncio does so only where the socket says that it is TCP."""
    with closing(listening.bind(settings.read(ServiceSettings, port=0))) as bound:
        assert bound.proto == socket.IPPROTO_TCP


def test_a_port_that_is_taken_is_refused_with_what_to_change():
    """SettingsRefused names the variables and their values."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SettingsRefused, match=f"UNDERSTUDY_HOST=127.0.0.1 UNDERSTUDY_PORT={port}: .*in use"):
            listening.bind(settings.read(ServiceSettings, port=port))


def test_a_host_that_is_not_here_is_refused():
    """An address of another machine, as after a mistake in a configuration."""
    with pytest.raises(SettingsRefused, match=r"UNDERSTUDY_HOST=192\.0\.2\.1 "):
        listening.bind(settings.read(ServiceSettings, host="192.0.2.1"))


def test_a_child_takes_the_socket_of_its_parent():
    """The same port, whatever the settings say of host and port."""
    with socket.create_server(("127.0.0.1", 0)) as parents:
        handed_over = os.dup(parents.fileno())
        with closing(listening.bind(settings.read(ServiceSettings, listen_fd=handed_over))) as bound:
            assert bound.getsockname() == parents.getsockname()
            assert bound.proto == socket.IPPROTO_TCP


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_an_ipv6_address_is_written_in_brackets():
    """So that the line in the log can be clicked."""
    with closing(listening.bind(settings.read(ServiceSettings, host="::1", port=0))) as bound:
        assert listening.address_of(bound) == f"http://[::1]:{bound.getsockname()[1]}"
