"""The C library's sockets, as far as the datapath uses them: ip(7), ipv6(7), udp(7), cmsg(3), sendmmsg(2)."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef extern from "netinet/in.h" nogil:
    ctypedef unsigned int socklen_t
    ctypedef unsigned short sa_family_t
    struct sockaddr_storage:
        sa_family_t ss_family
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in:
        sa_family_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        sa_family_t sin6_family
        uint16_t sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    struct in_pktinfo:
        int ipi_ifindex
        in_addr ipi_spec_dst
    struct in6_pktinfo:
        in6_addr ipi6_addr
        unsigned int ipi6_ifindex
    int IPPROTO_IP
    int IPPROTO_IPV6
    int IP_MTU_DISCOVER
    int IP_PKTINFO
    int IP_PMTUDISC_PROBE
    int IP_RECVERR
    int IP_RECVTOS
    int IP_TOS
    int IPV6_MTU_DISCOVER
    int IPV6_PKTINFO
    int IPV6_RECVERR
    int IPV6_RECVPKTINFO
    int IPV6_RECVTCLASS
    int IPV6_TCLASS
    uint16_t htons(uint16_t value)
    uint16_t ntohs(uint16_t value)

cdef extern from "sys/socket.h" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len
    struct msghdr:
        void* msg_name
        socklen_t msg_namelen
        iovec* msg_iov
        size_t msg_iovlen
        void* msg_control
        size_t msg_controllen
        int msg_flags
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    struct timespec:
        pass
    int AF_INET
    int AF_INET6
    int MSG_CTRUNC
    int MSG_DONTWAIT
    int MSG_ERRQUEUE
    int MSG_TRUNC
    cmsghdr* CMSG_FIRSTHDR(msghdr* message)
    cmsghdr* CMSG_NXTHDR(msghdr* message, cmsghdr* header)
    uint8_t* CMSG_DATA(cmsghdr* header)
    size_t CMSG_LEN(size_t size)
    size_t CMSG_SPACE(size_t size)
    int recvmmsg(int descriptor, mmsghdr* messages, unsigned int count, int flags, timespec* timeout)
    int sendmmsg(int descriptor, mmsghdr* messages, unsigned int count, int flags)

cdef extern from "poll.h" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int POLLERR
    int poll(pollfd* descriptors, unsigned long count, int timeout)

cdef extern from "netinet/udp.h" nogil:
    int SOL_UDP
    int UDP_GRO
    int UDP_SEGMENT
