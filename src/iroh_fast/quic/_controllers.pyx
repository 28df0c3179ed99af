"""Congestion control of one path: which controllers there are, and how they begin.

Plain structures driven by ``noexcept nogil`` functions: no allocation, no Python object, no clock. A new controller is one
more module and one more line in `controller_of`.
Sources: RFC 9002 §7; constants equal those that an iroh 1.x endpoint runs with.
"""

from libc.string cimport memset

from iroh_fast.quic._bbr cimport bbr
from iroh_fast.quic._controller cimport UINT64_MAX, clamp_mtu, min_window
from iroh_fast.quic._cubic cimport cubic
from iroh_fast.quic._newreno cimport newreno


cdef enum:
    INITIAL_WINDOW = 14720        # RFC 9002 §7.2


cdef const Controller* controller_of(int kind) noexcept nogil:
    if kind == CC_NEW_RENO:
        return newreno()
    return bbr() if kind == CC_BBR else cubic()


cdef void cc_init(Congestion* cc, int kind, uint64_t mtu, int64_t now) noexcept nogil:
    memset(cc, 0, sizeof(Congestion))
    cc.controller = controller_of(kind)
    cc.mtu = clamp_mtu(mtu)
    cc.cwnd = INITIAL_WINDOW
    if cc.cwnd < 2 * cc.mtu:
        cc.cwnd = 2 * cc.mtu
    if cc.cwnd > 10 * cc.mtu:
        cc.cwnd = 10 * cc.mtu
    cc.ssthresh = UINT64_MAX
    cc.recovery_start = -1
    if cc.controller.init != NULL:
        cc.controller.init(cc, now)


cdef void cc_view(const Congestion* cc, const Rtt* rtt, View* view) noexcept nogil:
    memset(view, 0, sizeof(View))
    view.inflight_longterm = view.inflight_shortterm = UINT64_MAX
    if cc.controller.view != NULL:
        cc.controller.view(cc, view)
    view.pacing_rate = cc_pacing_rate(cc, rtt)


cdef void cc_on_mtu(Congestion* cc, uint64_t mtu) noexcept nogil:
    cdef uint64_t before = cc.mtu
    cc.mtu = clamp_mtu(mtu)
    if cc.cwnd < min_window(cc):
        cc.cwnd = min_window(cc)
    if cc.controller.on_mtu != NULL:
        cc.controller.on_mtu(cc, before)
