/* What the program has to know of the kernel: the members that it reads, by name. Offsets are filled
 * in when it is loaded (CO-RE), so one object fits every kernel that has these members. */
#pragma once

#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct sk_buff {
	unsigned long _nfct; /* pointer to the connection; the low three bits are its state */
	int skb_iif;         /* index of the interface that it came in by; 0: none */
	unsigned int len, data_len; /* all bytes; those that do not stand at `data` */
	unsigned char *head;        /* the region that the packet's bytes are in */
	unsigned char *data;        /* at these hooks the IP header */
};

struct bpf_map {
	__u32 max_entries;
};

struct iphdr {
	__be16 frag_off;
	__u8 protocol;
	__be32 saddr;
	__be32 daddr;
};

struct in6_addr {
	union {
		__be32 u6_addr32[4];
	} in6_u;
};

struct ipv6hdr {
	__u8 nexthdr;
	__u8 hop_limit;
	struct in6_addr saddr;
	struct in6_addr daddr;
};

/* As TCP and SCTP begin, too. */
struct udphdr {
	__be16 source;
	__be16 dest;
};

struct net_device {
	int ifindex;
};

struct nf_hook_state {
	__u8 hook;
	__u8 pf;
	struct net_device *in; /* NULL for packets of the node itself, and for bridged ones */
};

struct bpf_nf_ctx {
	const struct nf_hook_state *state;
	struct sk_buff *skb;
};

#pragma clang attribute pop

extern int bpf_dynptr_from_skb(struct sk_buff *skb, __u64 flags, struct bpf_dynptr *ptr) __ksym;
extern void *bpf_dynptr_slice(const struct bpf_dynptr *ptr, __u32 offset, void *buffer, __u32 length) __ksym;

/* uapi/linux/netfilter.h, uapi/linux/netfilter/nf_conntrack_common.h */
enum {
	NF_DROP = 0,
	NF_ACCEPT = 1,
	NF_INET_LOCAL_IN = 1,
	NF_INET_POST_ROUTING = 4,
	NFPROTO_IPV4 = 2,
	NFPROTO_IPV6 = 10,
	LOOPBACK_IFINDEX = 1, /* include/net/flow.h */
	CT_STATE = 7,
	CT_ESTABLISHED = 0,
	CT_RELATED = 1,
	CT_ESTABLISHED_REPLY = 3,
	CT_RELATED_REPLY = 4,
};
