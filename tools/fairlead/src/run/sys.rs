//! The system calls of the hosted dataplane: TAP devices, packet sockets, sleeping. The only unsafe code of this program.
//!
//! Every function here is safe to call with any arguments: the kernel checks what it is given, and each block says why
//! the memory it hands to the kernel is valid for as long as the call lasts.

use std::ffi::{CString, c_int, c_ulong, c_void};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

/// Most frames that one system call moves.
pub const BATCH: usize = 32;

/// Bytes of the virtio-net header that precedes every frame of a packet socket.
pub const PACKET_HEADER_BYTES: usize = 10;
/// Bytes of the virtio-net header that precedes every frame of a TAP queue, as VIRTIO 1.x has it.
pub const TAP_HEADER_BYTES: usize = 12;

/// `struct ethtool_value` of linux/ethtool.h.
#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}
const _: () = assert!(size_of::<EthtoolValue>() == 8);
const _: () = assert!(size_of::<libc::tpacket_auxdata>() == 20);

/// linux/ethtool.h: set whether received packets are merged into larger ones.
const ETHTOOL_SGRO: u32 = 0x2c;

/// Room for one control message that carries a `tpacket_auxdata`.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 64]);
const _: () =
    assert!(size_of::<libc::cmsghdr>() + size_of::<libc::tpacket_auxdata>() <= size_of::<Control>());

/// What the kernel says of one received frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Bytes written to the buffer, with the virtio-net header.
    pub len: usize,
    /// The frame was longer than the buffer; its end is lost.
    pub truncated: bool,
    /// The VLAN tag (TPID, TCI) that the kernel took out of the frame.
    pub vlan: Option<(u16, u16)>,
}

/// Opens one queue of a TAP device, which is made if it does not exist; with its true name, as `name` may hold a `%d`.
pub fn open_tap(name: &str, multi_queue: bool) -> io::Result<(OwnedFd, String)> {
    let tap = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let mut request = interface_request(name)?;
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    let flags = flags | if multi_queue { libc::IFF_MULTI_QUEUE } else { 0 };
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    ioctl(tap.as_raw_fd(), libc::TUNSETIFF, &mut request)?;
    ioctl(tap.as_raw_fd(), libc::TUNSETVNETHDRSZ, &mut (TAP_HEADER_BYTES as c_int))?;
    // The argument is the value itself: we take frames whose checksum is partial, but none above the MTU.
    // SAFETY: TUNSETOFFLOAD reads no memory.
    let _ =
        check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETOFFLOAD, c_ulong::from(libc::TUN_F_CSUM)) })?;
    set_nonblocking(tap.as_raw_fd())?;
    let name = request.ifr_name.iter().take_while(|&&c| c != 0).map(|&c| c as u8).collect();
    Ok((tap.into(), String::from_utf8(name).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?))
}

/// Opens a packet socket that receives every frame of an interface, with virtio-net headers and VLAN tags told apart.
/// Sockets with the same `fanout` share the frames by flow.
pub fn open_packet_socket(interface: &str, fanout: Option<u16>) -> io::Result<OwnedFd> {
    let index = interface_index(interface)?;
    // Protocol 0 receives nothing until `bind` names one, when everything is set up.
    // SAFETY: the call takes no memory.
    let fd = check(unsafe {
        libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0)
    })?;
    // SAFETY: the descriptor was opened above, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    for option in [libc::PACKET_VNET_HDR, libc::PACKET_AUXDATA, libc::PACKET_IGNORE_OUTGOING] {
        set_option(fd, libc::SOL_PACKET, option, &1i32)?;
    }
    set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, &(4 << 20))?;
    let membership = libc::packet_mreq {
        mr_ifindex: index,
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set_option(fd, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &membership)?;
    // SAFETY: all bytes zero is a valid `sockaddr_ll`.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index;
    // SAFETY: `address` lives through the call, and its true size is given.
    let bound = unsafe { libc::bind(fd, ptr::from_ref(&address).cast(), size_of_val(&address) as u32) };
    let _ = check(bound)?;
    if let Some(group) = fanout {
        set_option(
            fd,
            libc::SOL_PACKET,
            libc::PACKET_FANOUT,
            &(u32::from(group) | libc::PACKET_FANOUT_HASH << 16),
        )?;
    }
    Ok(socket)
}

/// Receives up to one frame into each pair of buffers, the second of which is for what the first has no room for, and
/// says what came and how many.
pub fn receive_frames(
    socket: BorrowedFd<'_>,
    buffers: &mut [[IoSliceMut<'_>; 2]],
    received: &mut [Received; BATCH],
) -> io::Result<usize> {
    let count = buffers.len().min(BATCH);
    let mut controls = [Control([0; 64]); BATCH];
    // SAFETY: all bytes zero is a valid `mmsghdr`: no addresses, no vectors.
    let mut messages: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
    for ((message, pair), control) in messages.iter_mut().zip(&mut buffers[..count]).zip(&mut controls) {
        // std promises that `IoSliceMut` is laid out as `iovec`.
        message.msg_hdr.msg_iov = pair.as_mut_ptr().cast();
        message.msg_hdr.msg_iovlen = pair.len();
        message.msg_hdr.msg_control = ptr::from_mut(control).cast();
        message.msg_hdr.msg_controllen = size_of::<Control>();
    }
    // SAFETY: the first `count` messages point to two buffers and a control block each, with their true sizes, that are
    // borrowed mutably through the call.
    let done = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            messages.as_mut_ptr(),
            count as u32,
            libc::MSG_DONTWAIT,
            ptr::null_mut(),
        )
    };
    let done = check(done)? as usize;
    for (message, out) in messages.iter().zip(received.iter_mut()).take(done) {
        *out = Received {
            len: message.msg_len as usize,
            truncated: message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            vlan: vlan_tag(&message.msg_hdr),
        };
    }
    Ok(done)
}

/// The tag in the control message that `receive_frames` got the kernel to write.
fn vlan_tag(message: &libc::msghdr) -> Option<(u16, u16)> {
    // SAFETY: `message` is as the kernel left it, and its control block is still borrowed by the only caller.
    let control = unsafe { libc::CMSG_FIRSTHDR(message).as_ref() }?;
    if (control.cmsg_level, control.cmsg_type) != (libc::SOL_PACKET, libc::PACKET_AUXDATA)
        || control.cmsg_len < size_of::<libc::cmsghdr>() + size_of::<libc::tpacket_auxdata>()
    {
        return None;
    }
    // SAFETY: the kernel wrote a control message that is long enough for an `auxdata`.
    let data = unsafe { libc::CMSG_DATA(control).cast::<libc::tpacket_auxdata>().read_unaligned() };
    if data.tp_status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let told = data.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
    Some((if told { data.tp_vlan_tpid } else { 0x8100 }, data.tp_vlan_tci))
}

/// Sends frames, each of which is some segments, and returns how many the kernel took. An error is about the first.
pub fn send_frames(socket: BorrowedFd<'_>, frames: &[&[IoSlice<'_>]]) -> io::Result<usize> {
    let count = frames.len().min(BATCH);
    // SAFETY: all bytes zero is a valid `mmsghdr`: no addresses, no vectors.
    let mut messages: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
    for (message, frame) in messages.iter_mut().zip(&frames[..count]) {
        // std promises that `IoSlice` is laid out as `iovec`; the kernel only reads through it.
        message.msg_hdr.msg_iov = frame.as_ptr().cast_mut().cast();
        message.msg_hdr.msg_iovlen = frame.len();
    }
    // SAFETY: the first `count` messages point to segments, with their true number, that are borrowed through the call.
    let done = unsafe {
        libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count as u32, libc::MSG_DONTWAIT)
    };
    Ok(check(done)? as usize)
}

/// Reads one frame of a TAP queue.
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is borrowed mutably through the call, and its true size is given.
    let done = unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    usize::try_from(done).map_err(|_| io::Error::last_os_error())
}

/// Writes one frame of several segments to a TAP queue.
pub fn write_segments(fd: BorrowedFd<'_>, segments: &[IoSlice<'_>]) -> io::Result<usize> {
    // SAFETY: std promises that `IoSlice` is laid out as `iovec`; all segments are borrowed through the call.
    let done = unsafe { libc::writev(fd.as_raw_fd(), segments.as_ptr().cast(), segments.len() as c_int) };
    usize::try_from(done).map_err(|_| io::Error::last_os_error())
}

/// An eventfd: what one thread wakes another with.
pub fn event() -> io::Result<OwnedFd> {
    // SAFETY: the call takes no memory.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) })?;
    // SAFETY: the descriptor was opened above, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds to an eventfd, which makes it readable.
pub fn signal(event: BorrowedFd<'_>) {
    let one = 1u64.to_ne_bytes();
    // A full counter is readable too, so that failing does not matter.
    let _ = write_segments(event, &[IoSlice::new(&one)]);
}

/// Takes everything out of an eventfd.
pub fn clear(event: BorrowedFd<'_>) {
    let _ = read(event, &mut [0; 8]);
}

/// Most descriptors that one thread waits for; it does not wait for more.
pub const MAX_WAIT: usize = 65;

/// True if the descriptor can be written to now; a TAP queue can while its device is up.
pub fn is_writable(fd: BorrowedFd<'_>) -> bool {
    let mut polled = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: there is one entry.
    let ready = unsafe { libc::poll(&raw mut polled, 1, 0) };
    ready > 0 && polled.revents & libc::POLLOUT != 0
}

/// Sleeps until one of the descriptors is readable or the time is over (-1: without end); true if one is readable.
pub fn wait_readable(fds: &[RawFd], timeout_ms: c_int) -> bool {
    let mut polled = [libc::pollfd { fd: -1, events: libc::POLLIN, revents: 0 }; MAX_WAIT];
    let count = fds.len().min(MAX_WAIT);
    for (entry, &fd) in polled.iter_mut().zip(fds) {
        entry.fd = fd;
    }
    // SAFETY: `count` entries of `polled` exist.
    let ready = unsafe { libc::poll(polled.as_mut_ptr(), count as libc::nfds_t, timeout_ms) };
    ready > 0
}

/// The MAC address of an interface.
pub fn mac_address(interface: &str) -> io::Result<[u8; 6]> {
    let mut request = interface_request(interface)?;
    interface_ioctl(libc::SIOCGIFHWADDR, &mut request)?;
    // SAFETY: the call succeeded, so that the kernel has written this member.
    let address = unsafe { request.ifr_ifru.ifru_hwaddr };
    let mut mac = [0; 6];
    for (out, &byte) in mac.iter_mut().zip(&address.sa_data) {
        *out = byte as u8;
    }
    Ok(mac)
}

/// The MTU of an interface in bytes.
pub fn mtu(interface: &str) -> io::Result<u32> {
    let mut request = interface_request(interface)?;
    interface_ioctl(libc::SIOCGIFMTU, &mut request)?;
    // SAFETY: the call succeeded, so that the kernel has written this member.
    Ok(u32::try_from(unsafe { request.ifr_ifru.ifru_mtu }).unwrap_or(0))
}

/// True if the interface is up and has a carrier.
pub fn is_running(interface: &str) -> io::Result<bool> {
    let mut request = interface_request(interface)?;
    interface_ioctl(libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: the call succeeded, so that the kernel has written this member.
    let flags = c_int::from(unsafe { request.ifr_ifru.ifru_flags });
    Ok(flags & (libc::IFF_UP | libc::IFF_RUNNING) == libc::IFF_UP | libc::IFF_RUNNING)
}

/// Sets an interface up.
pub fn set_up(interface: &str) -> io::Result<()> {
    let mut request = interface_request(interface)?;
    interface_ioctl(libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: the call succeeded, so that the kernel has written this member.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
    interface_ioctl(libc::SIOCSIFFLAGS, &mut request)
}

/// Has the kernel not merge received packets: a router must see them as they were sent.
pub fn disable_receive_merging(interface: &str) -> io::Result<()> {
    let mut value = EthtoolValue { cmd: ETHTOOL_SGRO, data: 0 };
    let mut request = interface_request(interface)?;
    request.ifr_ifru.ifru_data = ptr::from_mut(&mut value).cast();
    interface_ioctl(libc::SIOCETHTOOL, &mut request)
}

fn interface_index(interface: &str) -> io::Result<c_int> {
    let mut request = interface_request(interface)?;
    interface_ioctl(libc::SIOCGIFINDEX, &mut request)?;
    // SAFETY: the call succeeded, so that the kernel has written this member.
    Ok(unsafe { request.ifr_ifru.ifru_ifindex })
}

fn interface_request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: all bytes zero is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { zeroed() };
    let name = CString::new(name)?;
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "an interface name has 1 to 15 characters"));
    }
    for (out, &byte) in request.ifr_name.iter_mut().zip(bytes) {
        *out = byte as libc::c_char;
    }
    Ok(request)
}

fn interface_ioctl(operation: c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    // Any socket will do.
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    ioctl(socket.as_raw_fd(), operation, request)
}

/// An ioctl whose argument is a `T` that the kernel reads and writes.
fn ioctl<T>(fd: RawFd, operation: c_ulong, argument: &mut T) -> io::Result<()> {
    // SAFETY: only this file calls it, with operations whose argument is a `T`, borrowed through the call.
    let _ = check(unsafe { libc::ioctl(fd, operation, ptr::from_mut(argument).cast::<c_void>()) })?;
    Ok(())
}

fn set_option<T>(fd: RawFd, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    // SAFETY: the value is borrowed through the call, and its true size is given.
    let done =
        unsafe { libc::setsockopt(fd, level, name, ptr::from_ref(value).cast(), size_of::<T>() as u32) };
    let _ = check(done)?;
    Ok(())
}

fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: F_GETFL takes no memory.
    let flags = check(unsafe { libc::fcntl(fd, libc::F_GETFL) })?;
    // SAFETY: F_SETFL takes no memory.
    let _ = check(unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) })?;
    Ok(())
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
