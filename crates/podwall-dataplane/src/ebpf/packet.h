/* Where does a packet come from, where does it go, and to which port? */
#pragma once

#include "kernel.h"

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

/* Nearly all packets, read where they are without a call: the headers stand side by side, with nothing between them. 0: look closer. */
static __always_inline int read_plain(const struct sk_buff *skb, struct packet *packet)
{
	__u32 there = skb->len - skb->data_len, offset;
	const struct udphdr *ports;

	if (packet->is_v6) {
		const struct ipv6hdr *header = bpf_core_cast(skb->data, struct ipv6hdr);

		offset = 40;
		if (there < offset + 4 || !has_ports(header->nexthdr))
			return 0;
		packet->protocol = header->nexthdr;
		packet->hop_limit = header->hop_limit;
		for (int i = 0; i < 4; i++) {
			packet->source[i] = header->saddr.in6_u.u6_addr32[i];
			packet->destination[i] = header->daddr.in6_u.u6_addr32[i];
		}
	} else {
		const struct iphdr *header = bpf_core_cast(skb->data, struct iphdr);

		offset = 20;
		if (there < offset + 4 || *(const __u8 *)header != 0x45 || !has_ports(header->protocol) ||
		    header->frag_off & bpf_htons(0x1fff))
			return 0;
		packet->protocol = header->protocol;
		packet->source[0] = header->saddr;
		packet->destination[0] = header->daddr;
	}
	ports = bpf_core_cast(skb->data + offset, struct udphdr);
	packet->source_port = bpf_ntohs(ports->source);
	packet->port = bpf_ntohs(ports->dest);
	packet->has_port = 1;
	return 1;
}

/* 0: it cannot be read. */
static __always_inline int read_packet(struct sk_buff *skb, struct packet *packet)
{
	struct bpf_dynptr data;

	if (read_plain(skb, packet))
		return 1;
	if (bpf_dynptr_from_skb(skb, 0, &data))
		return 0;
	return packet->is_v6 ? read_v6(&data, packet) : read_v4(&data, packet);
}
