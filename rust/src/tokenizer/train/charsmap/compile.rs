//! Rules to a Darts double array with shared endings, in the layout that `tokenizer::charsmap` reads.

use std::collections::{BTreeSet, HashMap};

use super::rules::Rules;
use crate::error::{Error, Result};

/// A state of the minimal automaton: the value of the string that ends here, and the next states.
#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    value: Option<u32>,
    next: Vec<(u8, usize)>,
}

pub(super) fn compile(rules: &Rules) -> Result<Vec<u8>> {
    let (mut strings, mut places) = (Vec::new(), HashMap::new());
    for to in rules.values().collect::<BTreeSet<_>>() {
        places.insert(to.as_str(), strings.len() as u32);
        strings.extend_from_slice(to.as_bytes());
        strings.push(0);
    }
    let keys: Vec<(&[u8], u32)> = rules.iter().map(|(from, to)| (from.as_bytes(), places[to.as_str()])).collect();
    let mut automaton = Automaton::default();
    let root = automaton.state_of(&keys, 0);
    let units = Array::new(&automaton.states).build(root)?;
    let mut blob = ((units.len() * 4) as u32).to_le_bytes().to_vec();
    units.iter().for_each(|unit| blob.extend_from_slice(&unit.to_le_bytes()));
    blob.extend_from_slice(&strings);
    Ok(blob)
}

#[derive(Default)]
struct Automaton {
    states: Vec<State>,
    known: HashMap<State, usize>,
}

impl Automaton {
    /// The state in which `keys`, sorted and equal up to `depth`, go on.
    fn state_of(&mut self, keys: &[(&[u8], u32)], depth: usize) -> usize {
        let ends = keys.first().filter(|(key, _)| key.len() == depth).map(|(_, value)| *value);
        let longer = if ends.is_some() { &keys[1..] } else { keys };
        let groups = longer.chunk_by(|a, b| a.0[depth] == b.0[depth]);
        let next = groups.map(|group| (group[0].0[depth], self.state_of(group, depth + 1))).collect();
        let state = State { value: ends, next };
        *self.known.entry(state.clone()).or_insert_with(|| {
            self.states.push(state);
            self.states.len() - 1
        })
    }
}

/// States placed in the array: the children of a state stand at its base XOR their byte.
struct Array<'a> {
    states: &'a [State],
    bases: Vec<Option<usize>>,
    units: Vec<u32>,
    taken: Vec<bool>,
    used_bases: Vec<bool>,
    first_free: usize,
    /// Where states with several labels start to look.
    from: usize,
}

/// Where a place was this hard to find, later states of several labels do not look again.
const TRIES: usize = 64;
const BLOCK: usize = 256;
/// Larger offsets need another encoding, which these maps are far from.
const MAX_OFFSET: usize = 1 << 21;

impl<'a> Array<'a> {
    fn new(states: &'a [State]) -> Self {
        let mut array = Self {
            states,
            bases: vec![None; states.len()],
            units: Vec::new(),
            taken: Vec::new(),
            used_bases: Vec::new(),
            first_free: 1,
            from: 1,
        };
        array.grow();
        // The root's own unit; and no state has base 0, which means "none" to readers.
        (array.taken[0], array.used_bases[0]) = (true, true);
        array
    }

    fn grow(&mut self) {
        let size = self.taken.len() + BLOCK;
        self.units.resize(size, 0);
        self.taken.resize(size, false);
        self.used_bases.resize(size, false);
    }

    fn build(mut self, root: usize) -> Result<Vec<u32>> {
        self.units[0] = self.unit(root, 0)?;
        Ok(self.units)
    }

    /// The unit at `place` that leads to `state`, without its label.
    fn unit(&mut self, state: usize, place: usize) -> Result<u32> {
        let base = match self.bases[state] {
            Some(base) => base,
            None => self.place(state)?,
        };
        let offset = base ^ place;
        if offset >= MAX_OFFSET {
            return Err(Error::Internal(format!("a character map needs an offset of {offset}")));
        }
        let leaf = u32::from(self.states[state].value.is_some()) << 8;
        Ok((offset as u32) << 10 | leaf)
    }

    fn place(&mut self, state: usize) -> Result<usize> {
        let State { value, next } = &self.states[state];
        let leaf = value.map(|_| 0);
        let labels: Vec<usize> = leaf.into_iter().chain(next.iter().map(|(byte, _)| usize::from(*byte))).collect();
        let base = self.find(&labels);
        self.bases[state] = Some(base);
        self.used_bases[base] = true;
        labels.iter().for_each(|label| self.taken[base ^ label] = true);
        if let Some(value) = value {
            self.units[base] = 1 << 31 | value;
        }
        for (byte, child) in next {
            let place = base ^ usize::from(*byte);
            self.units[place] = self.unit(*child, place)? | u32::from(*byte);
        }
        Ok(base)
    }

    /// A base that no other state has, with a free place for each label.
    fn find(&mut self, labels: &[usize]) -> usize {
        while self.taken.get(self.first_free) == Some(&true) {
            self.first_free += 1;
        }
        let start = if labels.len() == 1 { self.first_free } else { self.from.max(self.first_free) };
        let mut place = start;
        loop {
            if place >= self.taken.len() {
                self.grow();
            }
            let base = place ^ labels[0];
            if !self.used_bases[base] && labels.iter().all(|label| !self.taken[base ^ label]) {
                break;
            }
            place += 1;
        }
        if labels.len() > 1 && place - start > TRIES {
            self.from = place;
        }
        place ^ labels[0]
    }
}
