/* How does a packet meet the tables?
 *
 *   reply, ICMP error of a connection, connection that stands ──▶ passes
 *   source or destination a stranger ▶ dropped, but for what the node itself sends
 *   source isolated for egress ──────▶ rows (subject, peer) ▶ verdict ─┐ both allow:
 *   destination isolated for ingress ▶ rows (subject, peer) ▶ verdict ─┘ passes
 *
 *   peer: the address's own class, its pod's group, the net it lies in, any; the first row that says
 *   something. What a local address has no rows of is not looked up.
 *
 * The program is the same whatever the policies say; it is the written form of
 * NodeTables::decide in podwall-compile.
 *
 * kernel.h: what it reads of the kernel. packet.h: addresses and ports. tables.h: the maps. decide.h:
 * lookups. Here: who is asked, what is noted, counted and reported.
 */
#include "decide.h"

static __always_inline void count(__u32 subject, __u64 verdict)
{
	__u32 rule = RULE_OF(verdict), last;
	__u64 *packets;

	if (rule == NO_RULE && ALLOW_OF(verdict) == 2)
		return;
	if (rule == NO_RULE) {
		last = ((struct bpf_map *)&default_packets)->max_entries - 1;
		if (subject == STRANGER)
			subject = last;
		else if (subject >= last)
			return;
		packets = bpf_map_lookup_elem(&default_packets, &subject);
	} else {
		packets = bpf_map_lookup_elem(&rule_packets, &rule);
	}
	if (packets)
		++*packets;
}

__noinline int report(struct packet *packet, __u32 subject, __u32 rule, __u32 ingress)
{
	__u64 now = bpf_ktime_get_boot_ns();
	__u32 slot = subject, *address;
	struct limit *limit;
	struct event *event;

	/* One stranger's flood must not hide another. */
	if (packet && subject == STRANGER) {
		address = ingress ? packet->destination : packet->source;
		slot = (address[0] ^ address[1] ^ address[2] ^ address[3]) * 0x9e3779b1 >> 22;
	}
	slot &= 1023;
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
	event->source_port = packet->source_port;
	event->port = packet->port;
	event->family = packet->is_v6 ? 6 : 4;
	event->protocol = packet->protocol;
	event->ingress = ingress;
	event->rule = rule;
	event->subject = subject;
	__builtin_memcpy(event->source, packet->source, 16);
	__builtin_memcpy(event->destination, packet->destination, 16);
	bpf_ringbuf_submit(event, 0);
	return 0;
}

/* No interface brought it: this node made it. The hook's own `in` does not say that: br_netfilter
 * gives none for packets between two pods, and igmp.c one for reports of the node itself. */
static __always_inline int made_here(const struct sk_buff *skb)
{
	return !skb->skb_iif;
}

/* From this node to itself. */
static __always_inline int looped(const struct bpf_nf_ctx *ctx)
{
	return ctx->state->in && ctx->state->in->ifindex == LOOPBACK_IFINDEX;
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
static __always_inline __u64 ask(struct packet *packet, __u32 local, const struct known *peer,
				 __u32 ingress, __u64 control)
{
	if (local == OPEN)
		return VERDICT(2, NO_RULE);
	return judge(packet, local, (__u64)peer->group << 32 | peer->own, ingress, control);
}

static __always_inline int passes(struct packet *packet, __u32 local, __u64 verdict, __u32 ingress)
{
	if (local == OPEN)
		return 1;
	count(local & CLASS, verdict);
	if (ALLOW_OF(verdict) == 2)
		return 1;
	report(packet, local & CLASS, RULE_OF(verdict), ingress);
	return 0;
}

/* The place and the tag of a connection; 0 if there is none, or none that says which one it is. The
 * kernel's objects begin at multiples of 64 and lie in one region, whose upper bits are those of a packet's data. */
static __always_inline volatile __u64 *standing(const struct sk_buff *skb, __u64 control, __u64 *tag)
{
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
	/* Pointers of the kernel are read here and kept: wherever the verifier sees one read, it goes over
	 * the names of all types of the kernel, and the loop below it sees hundreds of times. */
	struct sk_buff *skb = ctx->skb;
	__u32 zero = 0, ct = skb->_nfct & CT_STATE;
	struct packet packet = {};
	volatile __u64 *word, *place;
	struct control *now;
	__u64 tag;
	int itself, to_itself;

	if (ct == CT_ESTABLISHED_REPLY)
		return NF_ACCEPT;
	now = bpf_map_lookup_elem(&control, &zero);
	if (!now)
		return NF_DROP;
	word = &now->word;
	/* To the node itself only egress is asked, so those do not count for others. */
	if (ct == CT_ESTABLISHED && ctx->state->hook == NF_INET_POST_ROUTING) {
		place = standing(skb, *word, &tag);
		if (place && *place == tag)
			return NF_ACCEPT;
	}
	packet.is_v6 = ctx->state->pf == NFPROTO_IPV6;
	packet.to_node = ctx->state->hook == NF_INET_LOCAL_IN;
	packet.from_node = !packet.to_node && made_here(skb);
	to_itself = packet.to_node && looped(ctx);
	if (!read_packet(skb, &packet))
		return NF_DROP;
	itself = is_itself(&packet);
	if (itself && !HAS_POD_RANGES(*word))
		return NF_ACCEPT;
	if ((ct == CT_RELATED || ct == CT_RELATED_REPLY) &&
	    packet.protocol == (packet.is_v6 ? 58 : 1))
		return NF_ACCEPT;
	/* Neighbour discovery, which no router forwards (RFC 4861 section 6.1.1). */
	if (packet.is_v6 && packet.protocol == 58 && packet.hop_limit == 255 &&
	    packet.icmp_type >= 133 && packet.icmp_type <= 137)
		return NF_ACCEPT;
	for (int i = 0; i < RETRIES; i++) {
		struct known from = {}, to = {};
		__u64 before = *word, egress, ingress;

		known_of(&packet, 0, before & 1, &from);
		known_of(&packet, 1, before & 1, &to);
		from.egress = subject_of(&packet, 0, from.egress, before);
		if (from.egress == STRANGER && (to_itself || packet.from_node))
			from.egress = OPEN;
		if (packet.to_node || packet.from_node)
			to.ingress = OPEN;
		to.ingress = subject_of(&packet, 1, to.ingress, before);
		if (itself) {
			from.egress = from.egress == STRANGER ? STRANGER : OPEN;
			to.ingress = to.ingress == STRANGER ? STRANGER : OPEN;
		}
		egress = ask(&packet, from.egress, &to, 0, before);
		ingress = ask(&packet, to.ingress, &from, 1, before);
		barrier();
		if (*word != before)
			continue;
		if (!passes(&packet, from.egress, egress, 0) || !passes(&packet, to.ingress, ingress, 1))
			return NF_DROP;
		if (packet.to_node || ct == CT_RELATED || ct == CT_RELATED_REPLY)
			return NF_ACCEPT;
		place = standing(skb, before, &tag);
		if (place)
			*place = tag; /* without a look at what stands there, which would be waited for */
		return NF_ACCEPT;
	}
	/* Eight changes while one packet was looked at: nobody can do that; so it is not let through. */
	return NF_DROP;
}

char LICENSE[] SEC("license") = "GPL";
