/* How does a packet meet the tables?
 *
 *   reply, ICMP error of a connection ──▶ passes
 *   source in `local`, isolated for egress ──────▶ rows (subject, peer) ▶ verdict ─┐ both allow:
 *   destination in `local`, isolated for ingress ▶ rows (subject, peer) ▶ verdict ─┘ passes
 *
 *   peer: the address's own class, its pod's group, the net it lies in, any; the first row that says
 *   something. What a local address has no rows of is not looked up.
 *
 * The program is the same whatever the policies say; it is the written form of
 * NodeTables::decide in podwall-compile.
 *
 * There are two copies of every table that policies fill. `control` says which is in force. Whoever
 * changes the tables writes the copy that is not, turns `control`, and writes the other. A packet
 * reads `control` before and after its lookups: if it was turned meanwhile, what it read may be of
 * two minds and it looks again. So no packet sees half a change, and nobody waits for anybody.
 */
#include "kernel.h"

#define OPEN 0xffffffff     /* a direction that nothing isolates */
#define NO_CLASS 0          /* of a peer: no row names it */
#define PEER_ANY 0xffffffff
#define NO_RULE 0xffffffff
#define RETRIES 8

/* Of a row: bit 0 any port, 1 to 16 ranges by the length of their prefix, 17 single ports. */
#define LENGTH_ANY 0
#define LENGTH_ONE 17

/* A local address's class, and which rows that has. */
#define CLASS 0x0fffffff
#define HAS_OWN (1U << 28)
#define HAS_GROUP (1U << 29)
#define HAS_NET (1U << 30)
#define HAS_ANY (1U << 31)

/* Flags of the tables in force, in the upper half of `control`. */
#define HAS_BLOCKS4 (1ULL << 32)
#define HAS_BLOCKS6 (1ULL << 33)

struct local {
	__u32 egress;
	__u32 ingress;
};

struct peer {
	__u32 own;
	__u32 group;
};

struct block4 {
	__u32 length;
	__u32 address;
};

struct block6 {
	__u32 length;
	__u32 address[4];
};

struct row_key {
	__u32 subject;
	__u32 peer;
};

struct verdict {
	__u32 allow; /* 0: none, 1: denied, 2: allowed */
	__u32 rule;
};

struct row {
	__u32 lengths; /* which prefix lengths of ports the row has, as bits */
	struct verdict otherwise;
};

struct port_key {
	__u32 subject;
	__u32 peer;
	__u16 port; /* host order, only the prefix's bits */
	__u8 protocol;
	__u8 length;
};

struct event {
	__u64 time; /* nanoseconds since boot */
	__u32 subject;
	__u32 peer;
	__u32 rule;
	__u16 source_port;
	__u16 port;
	__u8 family; /* 4 or 6 */
	__u8 protocol;
	__u8 ingress;
	__u8 unused[5];
	__u8 source[16];
	__u8 destination[16];
};

struct limit {
	__u64 window;
	__u64 count;
};

#define TWO_COPIES(name, kind, key_type, value_type)                                               \
	struct name##_table {                                                                      \
		__uint(type, kind);                                                                \
		__uint(max_entries, 1);                                                            \
		__uint(map_flags, BPF_F_NO_PREALLOC);                                              \
		__uint(key_size, sizeof(key_type));                                                \
		__uint(value_size, sizeof(value_type));                                            \
	};                                                                                         \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);                                          \
		__uint(max_entries, 2);                                                            \
		__type(key, __u32);                                                                \
		__array(values, struct name##_table);                                              \
	} name SEC(".maps")

TWO_COPIES(local4, BPF_MAP_TYPE_HASH, __u32, struct local);
TWO_COPIES(local6, BPF_MAP_TYPE_HASH, __u32[4], struct local);
TWO_COPIES(peers4, BPF_MAP_TYPE_HASH, __u32, struct peer);
TWO_COPIES(peers6, BPF_MAP_TYPE_HASH, __u32[4], struct peer);
TWO_COPIES(blocks4, BPF_MAP_TYPE_LPM_TRIE, struct block4, __u32);
TWO_COPIES(blocks6, BPF_MAP_TYPE_LPM_TRIE, struct block6, __u32);
TWO_COPIES(nets4, BPF_MAP_TYPE_LPM_TRIE, struct block4, __u32);
TWO_COPIES(nets6, BPF_MAP_TYPE_LPM_TRIE, struct block6, __u32);
TWO_COPIES(rows, BPF_MAP_TYPE_HASH, struct row_key, struct row);
TWO_COPIES(ports, BPF_MAP_TYPE_HASH, struct port_key, struct verdict);

/* The number of the last change, whose lowest bit is the copy in force, and flags. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} control SEC(".maps");

/* Packets by rule, and packets that no rule allows by subject. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} rule_packets SEC(".maps"), default_packets SEC(".maps");

/* Which rule or subject each of them counts for. User space alone reads and writes these. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} rule_names SEC(".maps"), default_names SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct limit));
} limits SEC(".maps");

/* Connections of which a packet was let through, by where the kernel keeps them.
 *
 * A packet of a connection that stands passes without lookups if nothing has changed since one was
 * judged: the tag names the connection's address and the number of the last change. It cannot name
 * another connection that got the address later: that one's first packet is judged, whatever stands
 * here, and if it passed under the same number, the others of its direction would, too. A tag is one
 * word, written at once. */
#define PASSED_BITS 15

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << PASSED_BITS);
	__type(key, __u32);
	__type(value, __u64);
} passed SEC(".maps");

/* At most so many events per subject and window; the rest is only counted. */
const volatile __u64 events_per_window = 32;
const volatile __u64 window_length = 100 * 1000 * 1000;

struct packet {
	__u32 source[4];
	__u32 destination[4];
	__u16 source_port;
	__u16 port;
	__u8 is_v6;
	__u8 protocol;
	__u8 has_port; /* the port could be read */
	__u8 hop_limit;
	__u8 icmp_type;
	__u8 to_node;
	__u8 from_node;
};

static __always_inline int has_ports(__u8 protocol)
{
	return protocol == 6 || protocol == 17 || protocol == 132;
}

static __always_inline void read_ports(struct bpf_dynptr *data, __u32 offset, struct packet *packet)
{
	__be16 buffer[2];
	__be16 *ports;

	ports = bpf_dynptr_slice(data, offset, buffer, sizeof(buffer));
	if (!ports)
		return;
	packet->source_port = bpf_ntohs(ports[0]);
	packet->port = bpf_ntohs(ports[1]);
	packet->has_port = 1;
}

/* 0 if the packet is too short to have addresses: nobody can route that. */
static __always_inline int read_v4(struct bpf_dynptr *data, struct packet *packet)
{
	__u8 buffer[20];
	__u8 *header = bpf_dynptr_slice(data, 0, buffer, sizeof(buffer));

	if (!header)
		return 0;
	__builtin_memcpy(packet->source, header + 12, 4);
	__builtin_memcpy(packet->destination, header + 16, 4);
	packet->protocol = header[9];
	/* A later fragment has no ports. Conntrack puts fragments together before they get here. */
	if (has_ports(packet->protocol) && !((header[6] & 0x1f) | header[7]))
		read_ports(data, (header[0] & 0xf) * 4, packet);
	return 1;
}

/* RFC 8200 §4: hop-by-hop 0, routing 43, fragment 44, authentication 51, destination options 60. */
static __always_inline int read_v6(struct bpf_dynptr *data, struct packet *packet)
{
	__u8 buffer[40], extension_buffer[8];
	__u8 *header = bpf_dynptr_slice(data, 0, buffer, sizeof(buffer));
	__u32 offset = 40;
	__u8 next;

	if (!header)
		return 0;
	__builtin_memcpy(packet->source, header + 8, 16);
	__builtin_memcpy(packet->destination, header + 24, 16);
	packet->hop_limit = header[7];
	next = header[6];
	for (int i = 0; i < 8; i++) {
		__u8 *extension;

		if (next != 0 && next != 43 && next != 44 && next != 51 && next != 60)
			break;
		extension = bpf_dynptr_slice(data, offset, extension_buffer, sizeof(extension_buffer));
		if (!extension) {
			packet->protocol = next;
			return 1;
		}
		if (next == 44 && (extension[2] | (extension[3] & 0xf8))) {
			packet->protocol = extension[0]; /* a later fragment: no ports */
			return 1;
		}
		offset += next == 44 ? 8 : next == 51 ? (extension[1] + 2) * 4 : (extension[1] + 1) * 8;
		next = extension[0];
	}
	packet->protocol = next;
	if (has_ports(next)) {
		read_ports(data, offset, packet);
	} else if (next == 58) {
		__u8 *type = bpf_dynptr_slice(data, offset, extension_buffer, 1);

		if (type)
			packet->icmp_type = *type;
	}
	return 1;
}

/* One copy's table of two. */
#define TABLE(name, copy) bpf_map_lookup_elem(&name, &(copy))

/* Functions that are not static are verified by themselves, once, whoever calls them: inlined eight
 * times over they are too many paths for the verifier. A verdict fits into one number. */
#define VERDICT(allow, rule) ((__u64)(allow) << 32 | (rule))
#define ALLOW_OF(verdict) ((__u32)((verdict) >> 32))
#define RULE_OF(verdict) ((__u32)(verdict))

/* Own class in the lower half, group in the upper. `local` says which rows it is for. */
__noinline __u64 peer_of(struct packet *packet, __u32 local, __u32 ingress, __u64 control)
{
	__u32 copy = control & 1;
	__u32 *address, *class = 0;
	struct peer *peer;
	void *table;

	if (!packet)
		return NO_CLASS;
	address = ingress ? packet->source : packet->destination;
	if (packet->is_v6) {
		struct block6 key = { 128, { address[0], address[1], address[2], address[3] } };

		table = TABLE(peers6, copy);
		peer = table ? bpf_map_lookup_elem(table, key.address) : 0;
		if (peer)
			return (__u64)peer->group << 32 | peer->own;
		table = control & HAS_BLOCKS6 && local & HAS_OWN ? TABLE(blocks6, copy) : 0;
		class = table ? bpf_map_lookup_elem(table, &key) : 0;
	} else {
		struct block4 key = { 32, address[0] };

		table = TABLE(peers4, copy);
		peer = table ? bpf_map_lookup_elem(table, &key.address) : 0;
		if (peer)
			return (__u64)peer->group << 32 | peer->own;
		table = control & HAS_BLOCKS4 && local & HAS_OWN ? TABLE(blocks4, copy) : 0;
		class = table ? bpf_map_lookup_elem(table, &key) : 0;
	}
	return class ? *class : NO_CLASS;
}

__noinline __u32 net_of(struct packet *packet, __u32 ingress, __u32 copy)
{
	__u32 *address, *class;
	void *table;

	if (!packet)
		return NO_CLASS;
	copy &= 1;
	address = ingress ? packet->source : packet->destination;
	if (packet->is_v6) {
		struct block6 key = { 128, { address[0], address[1], address[2], address[3] } };

		table = TABLE(nets6, copy);
		class = table ? bpf_map_lookup_elem(table, &key) : 0;
	} else {
		struct block4 key = { 32, address[0] };

		table = TABLE(nets4, copy);
		class = table ? bpf_map_lookup_elem(table, &key) : 0;
	}
	return class ? *class : NO_CLASS;
}

/* One row: a port, ranges from the narrowest, any port, everything. 0: it says nothing. */
__noinline __u64 in_row(struct packet *packet, __u32 subject, __u32 peer, __u32 copy)
{
	struct row_key key = { subject, peer };
	struct port_key port = { subject, peer };
	struct verdict *found;
	__u32 lengths;
	struct row *row;
	void *table;

	if (!packet)
		return 0;
	copy &= 1;
	port.protocol = packet->protocol;
	/* Most verdicts are for one port, and that goes first anyway. */
	if (packet->has_port) {
		port.length = LENGTH_ONE;
		port.port = packet->port;
		table = TABLE(ports, copy);
		found = table ? bpf_map_lookup_elem(table, &port) : 0;
		if (found)
			return VERDICT(found->allow, found->rule);
	}
	table = TABLE(rows, copy);
	row = table ? bpf_map_lookup_elem(table, &key) : 0;
	if (!row)
		return 0;
	lengths = row->lengths & ~(1 << LENGTH_ONE);
	table = lengths && has_ports(packet->protocol) ? TABLE(ports, copy) : 0;
	for (int length = LENGTH_ONE - 1; table && length >= LENGTH_ANY; length--) {
		if (!(lengths & (1 << length)) || (length != LENGTH_ANY && !packet->has_port))
			continue;
		port.length = length;
		port.port = packet->port & ~(0xffff >> length);
		found = bpf_map_lookup_elem(table, &port);
		if (found)
			return VERDICT(found->allow, found->rule);
	}
	return row->otherwise.allow ? VERDICT(row->otherwise.allow, row->otherwise.rule) : 0;
}

/* The first row that says something; none does: denied, by no rule. */
__noinline __u64 judge(struct packet *packet, __u32 local, __u32 ingress, __u64 control)
{
	__u32 subject = local & CLASS, class;
	__u64 peer, verdict = 0;

	if (!packet)
		return 0;
	if (local & (HAS_OWN | HAS_GROUP)) {
		peer = peer_of(packet, local, ingress, control);
		class = peer;
		if (local & HAS_OWN && class != NO_CLASS)
			verdict = in_row(packet, subject, class, control & 1);
		class = peer >> 32;
		if (!verdict && local & HAS_GROUP && class != NO_CLASS)
			verdict = in_row(packet, subject, class, control & 1);
	}
	if (!verdict && local & HAS_NET) {
		class = net_of(packet, ingress, control & 1);
		if (class != NO_CLASS)
			verdict = in_row(packet, subject, class, control & 1);
	}
	if (!verdict && local & HAS_ANY)
		verdict = in_row(packet, subject, PEER_ANY, control & 1);
	return verdict ? verdict : VERDICT(1, NO_RULE);
}

/* A local address's class and flags in a direction; OPEN if nothing isolates it. */
__noinline __u32 subject_of(struct packet *packet, __u32 ingress, __u32 copy)
{
	struct local *local;
	__u32 *address;
	void *table;

	if (!packet)
		return OPEN;
	copy &= 1;
	address = ingress ? packet->destination : packet->source;
	if (packet->is_v6) {
		table = TABLE(local6, copy);
		local = table ? bpf_map_lookup_elem(table, address) : 0;
	} else {
		table = TABLE(local4, copy);
		local = table ? bpf_map_lookup_elem(table, address) : 0;
	}
	if (!local)
		return OPEN;
	return ingress ? local->ingress : local->egress;
}

static __always_inline void count(__u32 subject, __u64 verdict)
{
	__u32 rule = RULE_OF(verdict);
	__u64 *packets;

	if (rule == NO_RULE && ALLOW_OF(verdict) == 2)
		return;
	if (rule == NO_RULE)
		packets = bpf_map_lookup_elem(&default_packets, &subject);
	else
		packets = bpf_map_lookup_elem(&rule_packets, &rule);
	if (packets)
		++*packets;
}

__noinline int report(struct packet *packet, __u32 subject, __u32 rule, __u32 ingress, __u64 control)
{
	__u64 now = bpf_ktime_get_boot_ns();
	__u32 slot = subject & 1023;
	struct limit *limit;
	struct event *event;

	limit = bpf_map_lookup_elem(&limits, &slot);
	if (!limit || !packet)
		return 0;
	if (now - limit->window >= window_length) {
		limit->window = now;
		limit->count = 0;
	}
	/* Two CPUs may count at the same time: the limit is no exact number. */
	if (limit->count >= events_per_window)
		return 0;
	limit->count++;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return 0;
	__builtin_memset(event, 0, sizeof(*event));
	event->time = now;
	event->subject = subject;
	event->peer = peer_of(packet, HAS_OWN, ingress, control);
	event->rule = rule;
	event->source_port = packet->source_port;
	event->port = packet->port;
	event->family = packet->is_v6 ? 6 : 4;
	event->protocol = packet->protocol;
	event->ingress = ingress;
	__builtin_memcpy(event->source, packet->source, 16);
	__builtin_memcpy(event->destination, packet->destination, 16);
	bpf_ringbuf_submit(event, 0);
	return 0;
}

/* The kernel made it and no interface brought it. br_netfilter calls this hook without an incoming
 * interface for packets that it bridges between two pods; those have a link-layer header. */
static __always_inline int made_here(const struct bpf_nf_ctx *ctx)
{
	const struct sk_buff *skb = ctx->skb;

	return !ctx->state->in &&
	       (skb->mac_header == 0xffff || skb->mac_header == skb->network_header);
}

static __always_inline int is_itself(const struct packet *packet)
{
	__u32 differs = packet->source[0] ^ packet->destination[0];

	if (packet->is_v6)
		differs |= (packet->source[1] ^ packet->destination[1]) |
			   (packet->source[2] ^ packet->destination[2]) |
			   (packet->source[3] ^ packet->destination[3]);
	return !differs;
}

/* One direction, of the tables that `control` names. */
static __always_inline __u64 ask(struct packet *packet, __u32 ingress, __u64 control, __u32 *subject)
{
	*subject = subject_of(packet, ingress, control & 1);
	return *subject == OPEN ? VERDICT(2, NO_RULE) : judge(packet, *subject, ingress, control);
}

static __always_inline int passes(struct packet *packet, __u32 subject, __u64 verdict, __u32 ingress,
				  __u64 control)
{
	if (subject == OPEN)
		return 1;
	subject &= CLASS;
	count(subject, verdict);
	if (ALLOW_OF(verdict) == 2)
		return 1;
	report(packet, subject, RULE_OF(verdict), ingress, control);
	return 0;
}

/* The place and the tag of a connection; 0 if there is none, or none that says which one it is. The
 * kernel's objects begin at multiples of 64 and lie in one region, whose upper bits are those of a packet's data. */
static __always_inline volatile __u64 *standing(const struct bpf_nf_ctx *ctx, __u64 control, __u64 *tag)
{
	const struct sk_buff *skb = ctx->skb;
	__u64 connection = skb->_nfct & ~(__u64)CT_STATE;
	__u32 slot = connection >> 6 & ((1 << PASSED_BITS) - 1);

	*tag = connection >> (6 + PASSED_BITS) << 32 | (__u32)control;
	if (!(__u32)control || !connection || connection & 63 ||
	    connection >> (38 + PASSED_BITS) != (__u64)skb->head >> (38 + PASSED_BITS))
		return 0;
	return bpf_map_lookup_elem(&passed, &slot);
}

SEC("netfilter")
int podwall(struct bpf_nf_ctx *ctx)
{
	__u32 zero = 0, ct = ctx->skb->_nfct & CT_STATE;
	struct packet packet = {};
	struct bpf_dynptr data;
	volatile __u64 *word, *place;
	__u64 tag;

	if (ct == CT_ESTABLISHED_REPLY)
		return NF_ACCEPT;
	word = bpf_map_lookup_elem(&control, &zero);
	if (!word)
		return NF_DROP;
	/* To the node itself only egress is asked, so those do not count for others. */
	if (ct == CT_ESTABLISHED && ctx->state->hook == NF_INET_POST_ROUTING) {
		place = standing(ctx, *word, &tag);
		if (place && *place == tag)
			return NF_ACCEPT;
	}
	packet.is_v6 = ctx->state->pf == NFPROTO_IPV6;
	packet.to_node = ctx->state->hook == NF_INET_LOCAL_IN;
	packet.from_node = !packet.to_node && made_here(ctx);
	if (bpf_dynptr_from_skb(ctx->skb, 0, &data))
		return NF_DROP;
	if (!(packet.is_v6 ? read_v6(&data, &packet) : read_v4(&data, &packet)))
		return NF_DROP;
	if (is_itself(&packet))
		return NF_ACCEPT;
	if ((ct == CT_RELATED || ct == CT_RELATED_REPLY) &&
	    packet.protocol == (packet.is_v6 ? 58 : 1))
		return NF_ACCEPT;
	/* Neighbour discovery, which no router forwards (RFC 4861 section 6.1.1). */
	if (packet.is_v6 && packet.protocol == 58 && packet.hop_limit == 255 &&
	    packet.icmp_type >= 133 && packet.icmp_type <= 137)
		return NF_ACCEPT;
	for (int i = 0; i < RETRIES; i++) {
		__u32 from = OPEN, to = OPEN;
		__u64 before = *word, egress, ingress = VERDICT(2, NO_RULE);

		egress = ask(&packet, 0, before, &from);
		if (!packet.to_node && !packet.from_node)
			ingress = ask(&packet, 1, before, &to);
		barrier();
		if (*word != before)
			continue;
		if (!passes(&packet, from, egress, 0, before) ||
		    !passes(&packet, to, ingress, 1, before))
			return NF_DROP;
		if (packet.to_node || ct == CT_RELATED || ct == CT_RELATED_REPLY)
			return NF_ACCEPT;
		place = standing(ctx, before, &tag);
		if (place && *place != tag)
			*place = tag;
		return NF_ACCEPT;
	}
	/* Eight changes while one packet was looked at: nobody can do that; so it is not let through. */
	return NF_DROP;
}

char LICENSE[] SEC("license") = "GPL";
