//! Which boxes stand on a sheet, in which column and row, and where do lines meet them?
//!
//! ```text
//!   column 0        1 … K: workloads, by who asks whom           K+1
//!   ┌outside┐   ┌ namespace ─────────────────────────┐        ┌outside┐
//!   │sources│──▶│ ┌web─────┐        ┌app─────┐       │───────▶│targets│
//!   └───────┘   │ │▸TCP 80 │───────▶│▸TCP 500│──…    │        └───────┘
//!               │ └────────┘        └────────┘       │
//!               └────────────────────────────────────┘
//!   a line ends at a socket, which names the ports; each socket belongs to one block
//! ```

use std::collections::{BTreeMap, HashMap};

use podwall_analysis::picture::scene::{Called, Scene, Stands, Term};
use podwall_analysis::picture::{Change, Content, Passing, Picture, What};

use super::text::{cut, head, ports, width};

/// Size of names, in pixels.
pub(crate) const TITLE: i32 = 13;
/// Size of everything else.
pub(crate) const SMALL: i32 = 11;
/// The widest text in a box.
const MOST: i32 = 208;
/// The most columns of workloads.
const COLUMNS: usize = 9;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// An item in the middle.
    Chip(usize),
    /// The head of a namespace's box.
    Head(usize),
    /// An item at the side: as source, else as destination.
    Side(usize, bool),
    /// A set at the side.
    Set(usize),
}

/// How a side of a box is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wall {
    /// Policies say what passes.
    Held,
    /// No policy does.
    Free,
    /// Some of the workloads are held back.
    Mixed,
    /// There is nothing to be held back.
    None,
}

/// Where a block's line comes in.
#[derive(Clone, Debug)]
pub(crate) struct Socket {
    /// Index of the block.
    pub(crate) block: usize,
    /// The ports.
    pub(crate) text: String,
    /// How they differ from before.
    pub(crate) change: Change,
    /// Set by the layout: where the line ends.
    pub(crate) y: i32,
}

/// Where a block's line goes out.
#[derive(Clone, Debug)]
pub(crate) struct Exit {
    /// Index of the block.
    pub(crate) block: usize,
    /// Set by the layout.
    pub(crate) y: i32,
}

/// A box.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) title: String,
    /// Lines below the title.
    pub(crate) notes: Vec<String>,
    pub(crate) sockets: Vec<Socket>,
    pub(crate) exits: Vec<Exit>,
    /// Out, in.
    pub(crate) walls: [Wall; 2],
    /// Whether it came or went with the change.
    pub(crate) change: Change,
    pub(crate) column: usize,
    /// Row of the grid; `None` at the sides.
    pub(crate) row: Option<usize>,
    pub(crate) x: i32,
    pub(crate) y: i32,
    pub(crate) w: i32,
    pub(crate) h: i32,
}

/// A namespace's box.
#[derive(Clone, Debug)]
pub(crate) struct Band {
    /// Index of the namespace; `None` for items that are in no box.
    pub(crate) space: Option<usize>,
    /// Rows of the grid, the head's included.
    pub(crate) rows: std::ops::Range<usize>,
    /// Columns.
    pub(crate) columns: (usize, usize),
    pub(crate) x: i32,
    pub(crate) y: i32,
    pub(crate) w: i32,
    pub(crate) h: i32,
}

/// Everything on a sheet but the ways of the lines.
#[derive(Clone, Debug, Default)]
pub(crate) struct Frames {
    pub(crate) frames: Vec<Frame>,
    pub(crate) bands: Vec<Band>,
    /// The last column, of destinations at the side.
    pub(crate) last: usize,
    /// How many rows the grid has.
    pub(crate) rows: usize,
    /// By block: sources as (frame, exit), destinations as (frame, socket).
    pub(crate) ends: Vec<Ends>,
}

/// The ends of a block's line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ends {
    pub(crate) from: Vec<(usize, usize)>,
    pub(crate) to: Vec<(usize, usize)>,
}

/// What a content says, for a socket.
pub(crate) fn said(content: &Content, compared: bool) -> String {
    let now = if content.now.is_nothing() { &content.before } else { &content.now };
    let text = side(now);
    match content.change(compared) {
        Change::Added => format!("+ {text}"),
        Change::Removed => format!("− {text}"),
        Change::More | Change::Less | Change::Other => {
            format!("{} → {text}", side(&content.before))
        }
        Change::Same => text,
    }
}

/// What one side of a content says.
fn side(passing: &Passing) -> String {
    let mut text = if passing.passes.is_empty() && passing.families.is_empty() {
        format!("perhaps {}", ports(&passing.open))
    } else if passing.families.is_empty() {
        ports(&passing.passes)
    } else {
        let of = passing.families.iter().filter(|(_, set)| !set.is_empty());
        of.map(|(family, set)| format!("{family}: {}", ports(set))).collect::<Vec<_>>().join("; ")
    };
    if passing.partly {
        text.push_str(" ~");
    }
    if !passing.open.is_empty() && !passing.passes.is_empty() {
        text.push_str(" ?");
    }
    text
}

/// The boxes of a scene, with columns and rows but without places.
pub(crate) fn frames(picture: &Picture, scene: &Scene) -> Frames {
    let mut all = Frames::default();
    let mut at: HashMap<Kind, usize> = HashMap::new();
    let chips: Vec<usize> = (0..scene.items.len()).filter(|i| is_chip(scene, *i)).collect();
    let compact = chips.len() > 40;
    for item in &chips {
        add(&mut all, &mut at, picture, scene, Kind::Chip(*item), compact);
    }
    let spaces: BTreeMap<usize, ()> =
        scene.items.iter().filter_map(|item| Some((item.within?, ()))).collect();
    for space in spaces.keys() {
        add(&mut all, &mut at, picture, scene, Kind::Head(*space), compact);
    }
    for (block, its) in scene.blocks.iter().enumerate() {
        let content = &scene.contents[its.content as usize];
        let mut ends = Ends::default();
        for term in &its.from {
            let frame = add(&mut all, &mut at, picture, scene, kind(scene, *term, true), compact);
            all.frames[frame].exits.push(Exit { block, y: 0 });
            ends.from.push((frame, all.frames[frame].exits.len() - 1));
        }
        for term in &its.to {
            let frame = add(&mut all, &mut at, picture, scene, kind(scene, *term, false), compact);
            let text = head(&said(content, picture.compared), SMALL, MOST - 12);
            let change = content.change(picture.compared);
            all.frames[frame].sockets.push(Socket { block, text, change, y: 0 });
            ends.to.push((frame, all.frames[frame].sockets.len() - 1));
        }
        all.ends.push(ends);
    }
    place(&mut all, scene, &at, &chips);
    for frame in &mut all.frames {
        measure(frame);
    }
    all
}

/// Whether an item stands in the middle: what a focus is not about stands at the sides.
fn is_chip(scene: &Scene, item: usize) -> bool {
    let its = &scene.items[item];
    its.focus && !matches!(its.what, Stands::Outside(_)) || its.within.is_some()
}

fn kind(scene: &Scene, term: Term, sends: bool) -> Kind {
    match term {
        Term::Item(item) if is_chip(scene, item) => Kind::Chip(item),
        Term::Item(item) => Kind::Side(item, sends),
        Term::Space(space) => Kind::Head(space),
        Term::Set(set) => Kind::Set(set),
    }
}

fn add(
    all: &mut Frames,
    at: &mut HashMap<Kind, usize>,
    picture: &Picture,
    scene: &Scene,
    kind: Kind,
    compact: bool,
) -> usize {
    *at.entry(kind).or_insert_with(|| {
        all.frames.push(frame(picture, scene, kind, compact));
        all.frames.len() - 1
    })
}

fn frame(picture: &Picture, scene: &Scene, kind: Kind, compact: bool) -> Frame {
    let (mut title, mut notes, mut walls) = (String::new(), Vec::new(), [Wall::None; 2]);
    let mut change = Change::Same;
    match kind {
        Kind::Chip(item) | Kind::Side(item, _) => {
            let its = &scene.items[item];
            (title, notes) = named(picture, scene, item, compact);
            if !matches!(its.what, Stands::Outside(_)) {
                walls = self::walls(picture, &its.rows);
            }
            if its.rows.iter().all(|row| !picture.rows[*row].before) {
                change = Change::Added;
            } else if its.rows.iter().all(|row| !picture.rows[*row].now) {
                change = Change::Removed;
            }
            let among = scene.among.get(item).copied().unwrap_or_default();
            if among != 0 && matches!(kind, Kind::Chip(_)) {
                let said = said(&scene.contents[among as usize], picture.compared);
                let lead = if its.rows.len() > 1 { "within" } else { "replicas" };
                notes.push(format!("{lead}: {said}"));
            }
        }
        Kind::Head(space) => title.clone_from(&picture.spaces[space].name),
        Kind::Set(set) => {
            let set = &scene.sets[set];
            title = called(picture, scene, &set.called, set.items.len(), set.sends);
            if set.called == Called::These {
                title = these(picture, scene, &set.items);
                notes.extend(few(picture, scene, &set.items));
            }
        }
    }
    let title_most = if matches!(kind, Kind::Head(_)) { MOST - 24 } else { MOST };
    Frame {
        kind,
        title: cut(&title, TITLE, title_most),
        notes: notes.iter().map(|note| head(note, SMALL, MOST)).collect(),
        sockets: Vec::new(),
        exits: Vec::new(),
        walls,
        change,
        column: 0,
        row: None,
        x: 0,
        y: 0,
        w: 0,
        h: 0,
    }
}

/// An item's name and what is said below it.
pub(crate) fn named(
    picture: &Picture,
    scene: &Scene,
    item: usize,
    compact: bool,
) -> (String, Vec<String>) {
    match scene.items[item].what {
        Stands::Workload(row) => {
            let What::Pods { name, kind, pods, host_network, .. } = &picture.rows[row].what else {
                return Default::default();
            };
            let mut note = match (&**kind, *pods) {
                ("Pod", _) => "Pod".to_owned(),
                (kind, 1) => kind.to_owned(),
                (kind, pods) => format!("{kind} · {pods} pods"),
            };
            if *host_network {
                note.push_str(" · on the node's network");
            }
            let notes = if compact && !host_network { Vec::new() } else { vec![note] };
            (name.clone(), notes)
        }
        Stands::Space(space) => {
            let its = &picture.spaces[space];
            let many = scene.items[item].rows.len();
            let s = if many == 1 { "" } else { "s" };
            (its.name.clone(), vec![format!("namespace · {many} workload{s}")])
        }
        Stands::Outside(row) => (picture.rows[row].label.clone(), vec!["outside".to_owned()]),
    }
}

/// What a set is called.
pub(crate) fn called(
    picture: &Picture,
    scene: &Scene,
    called: &Called,
    many: usize,
    sends: bool,
) -> String {
    let boxes = scene.items.iter().any(|item| matches!(item.what, Stands::Space(_)));
    let thing = if boxes { "namespace" } else { "workload" };
    match called {
        Called::Anyone => "anyone, anywhere".to_owned(),
        Called::EveryWorkload => format!("every {thing}"),
        Called::EveryWorkloadBut(but) if but.len() <= 2 => {
            let names: Vec<String> = but.iter().map(|i| item_name(picture, scene, *i)).collect();
            format!("every {thing} but {}", names.join(", "))
        }
        Called::EveryWorkloadBut(but) => format!("every {thing} but {}", but.len()),
        Called::Free if sends => format!("{many} {thing}s free to send"),
        Called::Free => format!("{many} {thing}s open to all"),
        Called::EveryAddress => "every address outside".to_owned(),
        Called::These => format!("{many} of them"),
    }
}

/// What several items are called that have nothing else in common.
pub(crate) fn these(picture: &Picture, scene: &Scene, items: &[usize]) -> String {
    let within = items.first().and_then(|item| scene.items[*item].within);
    if let Some(space) = within.filter(|_| items.iter().all(|i| scene.items[*i].within == within)) {
        let its = &picture.spaces[space];
        return format!("{} of {} in {}", items.len(), its.rows.len(), its.name);
    }
    let mut parts = Vec::new();
    let kind = |item: &usize| match scene.items[*item].what {
        Stands::Workload(_) => "workload",
        Stands::Space(_) => "namespace",
        Stands::Outside(_) => "outside",
    };
    for name in ["workload", "namespace", "outside"] {
        let many = items.iter().filter(|item| kind(item) == name).count();
        match many {
            0 => {}
            many if name == "outside" => parts.push(format!("{many} outside")),
            1 => parts.push(format!("1 {name}")),
            many => parts.push(format!("{many} {name}s")),
        }
    }
    parts.join(", ")
}

/// An item's name where it stands alone.
pub(crate) fn item_name(picture: &Picture, scene: &Scene, item: usize) -> String {
    match scene.items[item].what {
        Stands::Workload(row) => match &picture.rows[row].what {
            What::Pods { space, name, .. } => format!("{}/{name}", picture.spaces[*space].name),
            What::Outside { .. } => picture.rows[row].label.clone(),
        },
        Stands::Space(space) => picture.spaces[space].name.clone(),
        Stands::Outside(row) => picture.rows[row].label.clone(),
    }
}

fn few(picture: &Picture, scene: &Scene, items: &[usize]) -> Vec<String> {
    const SHOWN: usize = 3;
    let mut names: Vec<String> =
        items.iter().take(SHOWN).map(|item| item_name(picture, scene, *item)).collect();
    if items.len() > SHOWN {
        names.push(format!("and {} more", items.len() - SHOWN));
    }
    names
}

fn walls(picture: &Picture, rows: &[usize]) -> [Wall; 2] {
    [&picture.free.out, &picture.free.into].map(|free| {
        let many = rows.iter().filter(|row| free.get(**row) == Some(&true)).count();
        match many {
            0 => Wall::Held,
            many if many == rows.len() => Wall::Free,
            _ => Wall::Mixed,
        }
    })
}

/// Width and height, and where lines meet the box, from its top.
fn measure(frame: &mut Frame) {
    let text = |text: &String, size| width(text, size);
    let sockets = frame.sockets.iter().map(|socket| text(&socket.text, SMALL) + 12);
    let notes = frame.notes.iter().map(|note| text(note, SMALL));
    let widest = sockets.chain(notes).chain([text(&frame.title, TITLE)]).max().unwrap_or_default();
    frame.w = (widest + 24).max(104);
    let many = |len: usize| i32::try_from(len).unwrap_or(i32::MAX / 64);
    // Sockets are on multiples of 8, exits between them: no two lines run in one another.
    let mut y = 8 + 16 + 16 * many(frame.notes.len());
    for socket in &mut frame.sockets {
        socket.y = y + 8;
        y += 16;
    }
    for (at, exit) in frame.exits.iter_mut().enumerate() {
        exit.y = 12 + 8 * many(at);
    }
    let exits = 12 + 8 * many(frame.exits.len());
    frame.h = (y + 8).max(exits);
    frame.h += (8 - frame.h % 8) % 8;
}

/// Gives each frame its column and row.
fn place(all: &mut Frames, scene: &Scene, at: &HashMap<Kind, usize>, chips: &[usize]) {
    let order: HashMap<usize, usize> = chips.iter().enumerate().map(|(n, i)| (*i, n)).collect();
    let arcs = arcs(scene, &order);
    // Layers are a namespace's own: else a chain through many namespaces would pull each apart.
    let own: Vec<(usize, usize)> = arcs
        .iter()
        .copied()
        .filter(|(a, b)| scene.items[chips[*a]].within == scene.items[chips[*b]].within)
        .collect();
    let layers = layers(chips.len(), &own);
    let bands: BTreeMap<Option<usize>, Vec<usize>> =
        chips.iter().enumerate().fold(BTreeMap::new(), |mut bands, (number, item)| {
            bands.entry(scene.items[*item].within).or_default().push(number);
            bands
        });
    let deep = layers.iter().flatten().max().map_or(1, |deepest| deepest + 1);
    // About as many columns as make the sheet somewhat wider than it is high.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a few hundred boxes"
    )]
    let wide = ((chips.len() as f64).sqrt() * 0.75).ceil() as usize;
    let columns = deep.max(wide).clamp(1, COLUMNS);
    let mut row = 0;
    let mut used = 1;
    for (space, members) in bands {
        let first = row;
        let columns = if space.is_none() {
            columns
        } else {
            columns.min(members.len()).max(deep.min(columns))
        };
        let grid = grid(&members, &layers, &arcs, columns);
        if space.is_some() {
            row += 1; // the head's
        }
        let (mut low, mut high) = (usize::MAX, 1);
        for (column, cells) in grid.iter().enumerate().filter(|(_, cells)| !cells.is_empty()) {
            low = low.min(column + 1);
            high = high.max(column + 1);
            for (down, number) in cells.iter().enumerate() {
                let Some(frame) = at.get(&Kind::Chip(chips[*number])) else { continue };
                all.frames[*frame].column = column + 1;
                all.frames[*frame].row = Some(row + down);
            }
        }
        if let Some(head) = space.and_then(|space| at.get(&Kind::Head(space))) {
            all.frames[*head].column = low;
            all.frames[*head].row = Some(first);
        }
        row += grid.iter().map(Vec::len).max().unwrap_or_default();
        used = used.max(high);
        let band = Band { space, rows: first..row, columns: (low, high), x: 0, y: 0, w: 0, h: 0 };
        all.bands.push(band);
    }
    all.rows = row;
    all.last = used + 1;
    for frame in &mut all.frames {
        let right = match frame.kind {
            Kind::Side(_, sends) => !sends,
            Kind::Set(set) => !scene.sets[set].sends,
            Kind::Chip(_) | Kind::Head(_) => continue,
        };
        frame.column = if right { used + 1 } else { 0 };
    }
}

/// Who asks whom among the chips, each pair once.
fn arcs(scene: &Scene, order: &HashMap<usize, usize>) -> Vec<(usize, usize)> {
    let mut arcs = Vec::new();
    for block in &scene.blocks {
        let named = |terms: &[Term]| -> Vec<usize> {
            let item = |term: &Term| match term {
                Term::Item(item) => order.get(item).copied(),
                _ => None,
            };
            terms.iter().filter_map(item).collect()
        };
        let (from, to) = (named(&block.from), named(&block.to));
        if from.len() < block.from.len() {
            continue; // who is asked by others than these stands no further right for it
        }
        for src in from {
            arcs.extend(to.iter().filter(|dst| **dst != src).map(|dst| (src, *dst)));
        }
    }
    arcs.sort_unstable();
    arcs.dedup();
    arcs
}

/// The layer of each chip that has an arc: one more than the deepest that asks it, going round in
/// circles left out.
fn layers(many: usize, arcs: &[(usize, usize)]) -> Vec<Option<usize>> {
    // Who asks much and is asked little comes first; arcs against that order are not followed.
    let mut left: Vec<bool> = vec![true; many];
    let mut balance: Vec<(i64, i64)> = vec![(0, 0); many];
    for (src, dst) in arcs {
        balance[*src].0 += 1;
        balance[*dst].1 += 1;
    }
    let touched: Vec<bool> = balance.iter().map(|(out, into)| out + into > 0).collect();
    let mut place = vec![0usize; many];
    for turn in 0..many {
        let best = (0..many).filter(|chip| left[*chip]).max_by_key(|chip| {
            let (out, into) = balance[*chip];
            (into == 0, out - into, std::cmp::Reverse(*chip))
        });
        let Some(best) = best else { break };
        left[best] = false;
        place[best] = turn;
        for (src, dst) in arcs {
            if *src == best {
                balance[*dst].1 -= 1;
            }
            if *dst == best {
                balance[*src].0 -= 1;
            }
        }
    }
    let mut order: Vec<usize> = (0..many).collect();
    order.sort_by_key(|chip| place[*chip]);
    let mut layer = vec![0usize; many];
    for chip in order {
        for (_, dst) in arcs.iter().filter(|(src, dst)| *src == chip && place[*dst] > place[chip]) {
            layer[*dst] = layer[*dst].max(layer[chip] + 1);
        }
    }
    layer.into_iter().zip(touched).map(|(at, has)| has.then_some(at)).collect()
}

/// The chips of a band by column, from above; those without lines fill up the rest.
fn grid(
    members: &[usize],
    layers: &[Option<usize>],
    arcs: &[(usize, usize)],
    columns: usize,
) -> Vec<Vec<usize>> {
    let most = members.len().div_ceil(columns).max(3) + 1;
    let mut grid: Vec<Vec<usize>> = vec![Vec::new(); columns];
    let mut quiet = Vec::new();
    for chip in members {
        let Some(layer) = layers[*chip] else {
            quiet.push(*chip);
            continue;
        };
        let wanted = layer.min(columns - 1);
        let from_here = (wanted..columns).chain((0..wanted).rev());
        let room = from_here.into_iter().find(|column| grid[*column].len() < most);
        grid[room.unwrap_or(wanted)].push(*chip);
    }
    for chip in quiet {
        let emptiest = (0..columns).min_by_key(|column| (grid[*column].len(), *column));
        grid[emptiest.unwrap_or_default()].push(chip);
    }
    // Neighbours at about the same height cross fewer lines.
    let mut others: HashMap<usize, Vec<usize>> = HashMap::new();
    for (src, dst) in arcs {
        others.entry(*src).or_default().push(*dst);
        others.entry(*dst).or_default().push(*src);
    }
    for _ in 0..4 {
        let mut height: HashMap<usize, i64> = HashMap::new();
        for cells in &grid {
            for (at, chip) in cells.iter().enumerate() {
                height.insert(*chip, i64::try_from(at).unwrap_or_default() * 1000);
            }
        }
        for cells in &mut grid {
            cells.sort_by_key(|chip| {
                let known: Vec<i64> = others
                    .get(chip)
                    .into_iter()
                    .flatten()
                    .filter_map(|other| height.get(other).copied())
                    .collect();
                let own = height.get(chip).copied().unwrap_or_default();
                let many = i64::try_from(known.len()).unwrap_or(1);
                let mean = if known.is_empty() { own } else { known.iter().sum::<i64>() / many };
                (known.is_empty(), mean, *chip)
            });
        }
    }
    grid
}
