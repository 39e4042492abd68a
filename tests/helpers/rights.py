"""Giving up root's rights: what remains of root is an ordinary user, who owns what root owns."""

from __future__ import annotations

import ctypes
import os

CAPABILITIES = 0x20080522  # _LINUX_CAPABILITY_VERSION_3 of linux/capability.h
NO_NEW_PRIVILEGES = 38  # PR_SET_NO_NEW_PRIVS of linux/prctl.h: a program that is started gets none back


def renounce() -> None:
    """Give up all capabilities of this process and of what it starts, so that file modes hold for it too.

    The user stays the same, and with it the way to an interpreter below /root. Works for any user.
    """
    system = ctypes.CDLL(None, use_errno=True)
    own = (ctypes.c_uint32 * 2)(CAPABILITIES, 0)
    if system.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) or system.capset(own, (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
