//! Where does everything stand, and which way do lines go?
//!
//! ```text
//!        channel 1      channel 2        Lines run in channels between columns and lanes between
//!   col 0 ║║│ col 1 ┐ │║ col 2           rows, each on a track of its own, so that they cross but
//!   ──────╫╫┼───────┼─┼╫────── lane      never lie in one another, and never cross a box.
//!         ║║│ col 1 └▶│║ col 2
//! ```
//!
//! A block is one comb: a vertical in each channel where it has ends, joined by one lane.

use std::collections::{BTreeMap, BTreeSet};

use podwall_analysis::picture::Picture;
use podwall_analysis::picture::scene::Scene;

use super::frames::{Band, Frame, Frames, Kind, frames};

/// Around the sheet.
const MARGIN: i32 = 24;
/// Between tracks.
const TRACK: i32 = 8;
/// From a column to the first track: a box's border lies between.
const ASIDE: i32 = 24;
/// From a namespace's border to what is in it.
const PAD: i32 = 12;

/// A sheet, ready to be drawn.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout {
    pub(crate) frames: Vec<Frame>,
    pub(crate) bands: Vec<Band>,
    /// By block.
    pub(crate) ways: Vec<Way>,
    pub(crate) width: i32,
    pub(crate) height: i32,
}

/// The ways of a block's line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Way {
    /// From a source to a destination each, corners only.
    pub(crate) lines: Vec<Vec<(i32, i32)>>,
    /// Where arrows end.
    pub(crate) heads: Vec<(i32, i32)>,
}

/// Which channels a block uses, and the lane that joins them.
struct Net {
    channels: BTreeSet<usize>,
    lane: Option<usize>,
    /// Its track in the lane.
    lane_track: usize,
    /// Its tracks in the channels; none where it goes straight on.
    tracks: BTreeMap<usize, usize>,
}

/// Lays out a scene.
pub(crate) fn layout(picture: &Picture, scene: &Scene) -> Layout {
    let mut all = frames(picture, scene);
    let mut nets = nets(&all);
    let lanes = lane_tracks(&all, &mut nets);
    let lane_tops = heights(&mut all, &lanes);
    sides(&mut all, &lane_tops);
    snap(&mut all, &nets);
    let channels = channel_tracks(&all, &mut nets, &lane_tops);
    let starts = widths(&mut all, &channels);
    let ways = ways(&all, &nets, &lane_tops, &starts);
    let right = all.frames.iter().map(|f| f.x + f.w).chain(all.bands.iter().map(|b| b.x + b.w));
    let bottom = all.frames.iter().map(|f| f.y + f.h).chain(all.bands.iter().map(|b| b.y + b.h));
    let lines = || ways.iter().flat_map(|way| way.lines.iter().flatten());
    let width = right.chain(lines().map(|p| p.0)).max().unwrap_or_default() + MARGIN;
    let height = bottom.chain(lines().map(|p| p.1)).max().unwrap_or_default() + MARGIN;
    Layout { frames: all.frames, bands: all.bands, ways, width, height }
}

/// The channel left of a column has its number; sources go out to the channel right of theirs.
fn nets(all: &Frames) -> Vec<Net> {
    all.ends
        .iter()
        .map(|ends| {
            let out = ends.from.iter().map(|(frame, _)| out_channel(all, *frame));
            let into = ends.to.iter().map(|(frame, _)| all.frames[*frame].column.max(1));
            let channels: BTreeSet<usize> = out.chain(into).collect();
            let mut rows: Vec<usize> = ends
                .from
                .iter()
                .chain(&ends.to)
                .filter_map(|(frame, _)| all.frames[*frame].row)
                .collect();
            rows.sort_unstable();
            // Above the middle row, or below where that is nearer to most.
            let middle = rows.get(rows.len() / 2).copied().unwrap_or_default();
            let lane = (channels.len() > 1).then_some(middle);
            Net { channels, lane, lane_track: 0, tracks: BTreeMap::new() }
        })
        .collect()
}

/// The channel into which a frame's lines go out. A namespace's head stands at its left, but what
/// all its workloads send goes out at its right border.
fn out_channel(all: &Frames, frame: usize) -> usize {
    let its = &all.frames[frame];
    match its.kind {
        Kind::Head(space) => {
            let band = all.bands.iter().find(|band| band.space == Some(space));
            band.map_or(its.column, |band| band.columns.1) + 1
        }
        _ => its.column + 1,
    }
}

/// Gives lanes their tracks; how many each lane has.
fn lane_tracks(all: &Frames, nets: &mut [Net]) -> Vec<usize> {
    let mut lanes: BTreeMap<usize, Vec<(usize, usize, usize)>> = BTreeMap::new();
    for (number, net) in nets.iter().enumerate() {
        let (first, last) = (net.channels.first(), net.channels.last());
        if let (Some(lane), Some(first), Some(last)) = (net.lane, first, last) {
            lanes.entry(lane).or_default().push((*first, *last, number));
        }
    }
    let mut many = vec![0; all.rows + 1];
    for (lane, mut spans) in lanes {
        spans.sort_unstable();
        let mut ends: Vec<usize> = Vec::new();
        for (first, last, number) in spans {
            let track = ends.iter().position(|end| *end < first).unwrap_or_else(|| {
                ends.push(0);
                ends.len() - 1
            });
            ends[track] = last;
            nets[number].lane_track = track;
        }
        many[lane] = ends.len();
    }
    many
}

/// Places rows and the namespaces' boxes; gives the first track of each lane.
fn heights(all: &mut Frames, lanes: &[usize]) -> Vec<i32> {
    let mut tall = vec![0; all.rows];
    for frame in &all.frames {
        if let Some(row) = frame.row {
            tall[row] = tall[row].max(frame.h);
        }
    }
    let mut tops = vec![0; all.rows + 1];
    let mut row_tops = vec![0; all.rows];
    let mut y = MARGIN;
    for row in 0..all.rows {
        let tracks = i32::try_from(lanes[row]).unwrap_or_default() * TRACK;
        let begins = all.bands.iter().any(|band| band.rows.start == row);
        let inside = row > 0 && !begins;
        tops[row] = y + 10; // 2 modulo 8: not where lines meet boxes
        y += tracks + if inside || tracks > 0 { 16 } else { 0 };
        if begins {
            y += if row == 0 { 0 } else { 16 };
            if let Some(band) = all.bands.iter_mut().find(|band| band.rows.start == row) {
                band.y = y;
                y += if band.space.is_some() { 8 } else { 0 };
            }
        }
        row_tops[row] = y;
        y += tall[row];
        if let Some(band) = all.bands.iter_mut().find(|band| band.rows.end == row + 1) {
            y += if band.space.is_some() { 16 } else { 0 };
            band.h = y - band.y;
            y += 8;
        }
    }
    tops[all.rows] = y + 10;
    for frame in &mut all.frames {
        if let Some(row) = frame.row {
            move_to(frame, row_tops[row]);
        }
    }
    tops
}

fn move_to(frame: &mut Frame, y: i32) {
    let by = y - frame.y;
    frame.y = y;
    frame.sockets.iter_mut().for_each(|socket| socket.y += by);
    frame.exits.iter_mut().for_each(|exit| exit.y += by);
}

/// Places what stands at the sides, as near as it goes to the other ends of its lines.
fn sides(all: &mut Frames, lane_tops: &[i32]) {
    let bottom = lane_tops.last().copied().unwrap_or_default();
    for column in [0, all.last] {
        let mut wanted: Vec<(i32, usize)> = Vec::new();
        for (number, frame) in all.frames.iter().enumerate() {
            if frame.row.is_some() || frame.column != column {
                continue;
            }
            let blocks =
                frame.exits.iter().map(|e| e.block).chain(frame.sockets.iter().map(|s| s.block));
            let mut ys: Vec<i32> = Vec::new();
            for block in blocks {
                let ends = &all.ends[block];
                let out = ends.from.iter().map(|(f, e)| (f, all.frames[*f].exits[*e].y));
                let into = ends.to.iter().map(|(f, s)| (f, all.frames[*f].sockets[*s].y));
                let placed = out.chain(into).filter(|(f, _)| all.frames[**f].row.is_some());
                ys.extend(placed.map(|(_, y)| y));
            }
            let many = i32::try_from(ys.len()).unwrap_or(1).max(1);
            let own = frame.exits.first().map(|e| e.y).or(frame.sockets.first().map(|s| s.y));
            let mean = if ys.is_empty() { bottom } else { ys.iter().sum::<i32>() / many };
            wanted.push((mean - own.unwrap_or_default(), number));
        }
        wanted.sort_unstable();
        // Down as far as needed, then all up again where there is room.
        let mut next = MARGIN;
        let mut placed: Vec<(usize, i32, i32)> = Vec::new();
        for (y, number) in wanted {
            let y = y.max(next);
            let y = y - y.rem_euclid(8);
            let y = if y < next { y + 8 } else { y };
            next = y + all.frames[number].h + 16;
            placed.push((number, y, next));
        }
        let floor = bottom.max(next.min(bottom));
        let mut under = floor.max(MARGIN) + 8;
        for (number, y, _) in placed.iter().rev() {
            let most = under - all.frames[*number].h - 16;
            let y = (*y).min(most - most.rem_euclid(8)).max(MARGIN);
            under = y;
            move_to(&mut all.frames[*number], y);
        }
        // What does not fit above the floor stays in order below one another.
        let mut next = MARGIN;
        for (number, _, _) in placed {
            let frame = &mut all.frames[number];
            if frame.y < next {
                move_to(frame, next);
            }
            next = frame.y + frame.h + 16;
            next += (8 - next % 8) % 8;
        }
    }
}

/// A line from one box to the next goes straight where it can.
fn snap(all: &mut Frames, nets: &[Net]) {
    for (number, net) in nets.iter().enumerate() {
        let ends = &all.ends[number];
        let ([(from, exit)], Some((to, socket))) = (&ends.from[..], ends.to.first()) else {
            continue;
        };
        if net.channels.len() != 1 {
            continue;
        }
        let y = all.frames[*to].sockets[*socket].y;
        let frame = &all.frames[*from];
        let near =
            frame.exits.iter().enumerate().any(|(e, its)| e != *exit && (its.y - y).abs() < 6);
        if y >= frame.y + 8 && y <= frame.y + frame.h - 8 && !near {
            let (from, exit) = (*from, *exit);
            all.frames[from].exits[exit].y = y;
        }
    }
}

/// The heights at which a net meets a channel, with its lane's.
fn meets(all: &Frames, net: &Net, number: usize, channel: usize, lane_tops: &[i32]) -> Vec<i32> {
    let ends = &all.ends[number];
    let out = ends.from.iter().filter(|(f, _)| out_channel(all, *f) == channel);
    let into = ends.to.iter().filter(|(f, _)| all.frames[*f].column.max(1) == channel);
    let out = out.map(|(f, e)| all.frames[*f].exits[*e].y);
    let into = into.map(|(f, s)| all.frames[*f].sockets[*s].y);
    out.chain(into).chain(lane_y(net, lane_tops)).collect()
}

fn lane_y(net: &Net, lane_tops: &[i32]) -> Option<i32> {
    let track = i32::try_from(net.lane_track).unwrap_or_default();
    net.lane.and_then(|lane| lane_tops.get(lane)).map(|top| top + TRACK * track)
}

/// Gives channels their tracks; how many each has.
fn channel_tracks(all: &Frames, nets: &mut [Net], lane_tops: &[i32]) -> BTreeMap<usize, usize> {
    let mut spans: BTreeMap<usize, Vec<(i32, i32, i32, usize)>> = BTreeMap::new();
    for (number, net) in nets.iter().enumerate() {
        for channel in &net.channels {
            let ys = meets(all, net, number, *channel, lane_tops);
            let (low, high) = (ys.iter().min(), ys.iter().max());
            let (Some(low), Some(high)) = (low, high) else { continue };
            if low == high {
                continue; // straight on
            }
            // What comes in from above and leaves below goes left of what goes the other way.
            let out = all.ends[number].from.iter().find(|(f, _)| out_channel(all, *f) == *channel);
            let comes = out.map_or(*low, |(f, e)| all.frames[*f].exits[*e].y);
            let down = i32::from(comes > i32::midpoint(*low, *high));
            spans.entry(*channel).or_default().push((down, *low, *high, number));
        }
    }
    let mut many = BTreeMap::new();
    for (channel, mut list) in spans {
        // Lines that go down take tracks from the right for those that start higher, so that
        // they do not cross one another; lines that go up the other way round.
        list.sort_by_key(|(up, low, high, number)| {
            if *up == 1 { (0, *low, *high, *number) } else { (1, -*low, -*high, *number) }
        });
        let mut tracks: Vec<Vec<(i32, i32)>> = Vec::new();
        for (_, low, high, number) in list {
            let fits = |track: &Vec<(i32, i32)>| {
                track.iter().all(|(l, h)| *h + 10 < low || high + 10 < *l)
            };
            let track = tracks.iter().position(fits).unwrap_or_else(|| {
                tracks.push(Vec::new());
                tracks.len() - 1
            });
            tracks[track].push((low, high));
            nets[number].tracks.insert(channel, track);
        }
        many.insert(channel, tracks.len());
    }
    many
}

/// Places columns; gives where the first track of each channel runs.
fn widths(all: &mut Frames, channels: &BTreeMap<usize, usize>) -> BTreeMap<usize, i32> {
    let mut widest: BTreeMap<usize, i32> = BTreeMap::new();
    for frame in &all.frames {
        let its = widest.entry(frame.column).or_default();
        *its = (*its).max(frame.w);
    }
    let mut x = MARGIN;
    let mut starts = BTreeMap::new();
    let mut lefts: BTreeMap<usize, i32> = BTreeMap::new();
    for column in 0..=all.last {
        if column > 0 {
            let tracks = channels.get(&column).copied().unwrap_or_default();
            let tracks = i32::try_from(tracks).unwrap_or_default();
            let empty = column == 1 && !widest.contains_key(&0);
            let ends = column == all.last && !widest.contains_key(&column);
            if (empty || ends) && tracks == 0 {
                x += if empty { PAD } else { 0 };
            } else {
                starts.insert(column, x + if empty { PAD } else { ASIDE });
                x += 2 * ASIDE + TRACK * tracks.max(1);
            }
        }
        lefts.insert(column, x);
        x += widest.get(&column).copied().unwrap_or_default();
    }
    for frame in &mut all.frames {
        frame.x = lefts.get(&frame.column).copied().unwrap_or_default();
        // Boxes of a column are as wide as the widest; what stands at the left side ends at the
        // channel.
        let wide = widest.get(&frame.column).copied().unwrap_or_default();
        if frame.column == 0 {
            frame.x += wide - frame.w;
        } else if frame.column < all.last {
            frame.w = wide;
        }
    }
    for band in &mut all.bands {
        let left = lefts.get(&band.columns.0).copied().unwrap_or_default();
        let right = lefts.get(&band.columns.1).copied().unwrap_or_default()
            + widest.get(&band.columns.1).copied().unwrap_or_default();
        band.x = left - PAD;
        band.w = right - left + 2 * PAD;
    }
    starts
}

fn ways(all: &Frames, nets: &[Net], lane_tops: &[i32], starts: &BTreeMap<usize, i32>) -> Vec<Way> {
    nets.iter()
        .enumerate()
        .map(|(number, net)| {
            let ends = &all.ends[number];
            let x_of = |channel: usize| {
                let track = net.tracks.get(&channel).copied().unwrap_or_default();
                let start = starts.get(&channel).copied().unwrap_or_default();
                start + TRACK * i32::try_from(track).unwrap_or_default()
            };
            let line = |(from, exit): &(usize, usize), (to, socket): &(usize, usize)| {
                let (src, dst) = (&all.frames[*from], &all.frames[*to]);
                let (out, into) = (out_channel(all, *from), dst.column.max(1));
                let start = match src.kind {
                    Kind::Head(space) => all
                        .bands
                        .iter()
                        .find(|band| band.space == Some(space))
                        .map_or(src.x + src.w, |band| band.x + band.w),
                    _ => src.x + src.w,
                };
                let end = match dst.kind {
                    Kind::Head(_) => dst.x - PAD,
                    _ => dst.x,
                };
                let (a, b) = (src.exits[*exit].y, dst.sockets[*socket].y);
                let mut points = vec![(start, a), (x_of(out), a)];
                if let Some(y) = lane_y(net, lane_tops) {
                    if out == into {
                        // Both ends on one side of a comb that reaches further.
                        points.push((x_of(out), b));
                    } else {
                        points.extend([(x_of(out), y), (x_of(into), y), (x_of(into), b)]);
                    }
                } else {
                    points.push((x_of(into), b));
                }
                points.push((end, b));
                points
            };
            let mut way = Way::default();
            if let (Some(first_from), Some(first_to)) = (ends.from.first(), ends.to.first()) {
                way.lines.extend(ends.from.iter().map(|from| line(from, first_to)));
                way.lines.extend(ends.to.iter().skip(1).map(|to| line(first_from, to)));
            }
            way.heads = way.lines.iter().filter_map(|line| line.last().copied()).collect();
            way.heads.sort_unstable();
            way.heads.dedup();
            way
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use podwall_analysis::matrix::By;
    use podwall_analysis::picture::picture;
    use podwall_analysis::picture::scene::View;
    use podwall_compile::testing::dice::Dice;
    use podwall_compile::testing::random;

    fn layouts(mut each: impl FnMut(u64, &Scene, &Layout)) {
        for seed in 0..150 {
            let dice = &mut Dice::seeded(seed);
            let mut cluster = random::cluster(dice);
            for _ in 0..dice.below(40) {
                cluster.put_pod(random::pod(dice));
            }
            let picture = picture(&cluster, None, By::Pod).unwrap();
            let mut views = vec![View::everything(&picture), View::overview(&picture)];
            views.extend((0..picture.spaces.len()).map(|space| View::namespace(&picture, space)));
            for view in views {
                let scene = Scene::of(&picture, &view);
                each(seed, &scene, &layout(&picture, &scene));
            }
        }
    }

    #[test]
    fn boxes_lie_beside_one_another_and_texts_in_their_boxes() {
        layouts(|seed, _, layout| {
            for (at, a) in layout.frames.iter().enumerate() {
                for b in &layout.frames[at + 1..] {
                    let beside = a.x + a.w <= b.x || b.x + b.w <= a.x;
                    let below = a.y + a.h <= b.y || b.y + b.h <= a.y;
                    assert!(beside || below, "seed {seed}: {} and {}", a.title, b.title);
                }
                let small = a.notes.iter().chain(a.sockets.iter().map(|socket| &socket.text));
                for text in small {
                    let wide = super::super::text::width(text, super::super::frames::SMALL);
                    assert!(wide + 12 <= a.w, "seed {seed}: {text}");
                }
                assert!(a.sockets.iter().all(|s| s.y > a.y && s.y < a.y + a.h), "seed {seed}");
                assert!(a.exits.iter().all(|e| e.y > a.y && e.y < a.y + a.h), "seed {seed}");
            }
        });
    }

    #[test]
    fn lines_go_round_boxes_and_end_where_their_block_does() {
        let mut seen = 0;
        layouts(|seed, scene, layout| {
            for (number, way) in layout.ways.iter().enumerate() {
                let block = &scene.blocks[number];
                assert_eq!(way.heads.len(), block.to.len(), "seed {seed}");
                for line in &way.lines {
                    seen += 1;
                    for pair in line.windows(2) {
                        let ([a, b], straight) =
                            ([pair[0], pair[1]], pair[0].0 == pair[1].0 || pair[0].1 == pair[1].1);
                        assert!(straight, "seed {seed}: only right angles");
                        let crossed = layout.frames.iter().find(|frame| {
                            !matches!(frame.kind, Kind::Head(_))
                                && a.0.min(b.0) < frame.x + frame.w
                                && a.0.max(b.0) > frame.x
                                && a.1.min(b.1) < frame.y + frame.h
                                && a.1.max(b.1) > frame.y
                        });
                        assert!(crossed.is_none(), "seed {seed}: through {crossed:?}");
                    }
                }
            }
        });
        assert!(seen > 1000, "{seen}");
    }
}
