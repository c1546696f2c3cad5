//! One step: every layer, by all threads together.

use std::collections::BTreeMap;
use std::time::Duration;
use std::time::Instant;

use candle_core::Device;
use candle_core::Result;
use candle_core::Tensor;

use super::CpuRunner;
use super::attention;
use super::attention::Work;
use super::kernels::Element;
use super::kernels::State;
use super::linear;
use super::linear::LowRank;
use super::linear::Operand;
use super::linear::Scratch;
use super::linear::SharedOperand;
use super::pages::SharedPages;
use super::plan::Plan;
use super::pointwise::rms_norm;
use super::pointwise::rotate;
use super::pointwise::swiglu;
use super::shared::Shared;
use super::team::Member;
use super::weights::PANEL;
use super::weights::STEP;
use super::weights::values;
use crate::model::config::DecoderConfig;
use crate::model::lora::Target;
use crate::model::ops::HeadShape;
use crate::model::ops::RopeTable;
use crate::model::runner::PAGE;
use crate::model::runner::RunBatch;

/// Maps that read the same input.
const QUERY_KEY_VALUE: [Target; 3] = [Target::Query, Target::Key, Target::Value];
const GATE_UP: [Target; 2] = [Target::Gate, Target::Up];

/// Memory of a step, kept for the next.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// The residual stream (rows, hidden).
    x: Vec<f32>,
    /// Queries, keys and values, later gates and ups, side by side.
    projected: Vec<f32>,
    /// (rows, heads · head_dim)
    attended: Vec<f32>,
    /// (wanted, vocabulary)
    logits: Vec<f32>,
    operand: Operand,
    /// Inner values of low-rank terms.
    inner: Operand,
}

impl Buffers {
    pub(super) fn logits(&mut self) -> &mut [f32] {
        &mut self.logits
    }
}

/// What the threads of a step see.
struct Step<'a, E> {
    runner: Weights<'a>,
    plan: Plan<'a>,
    x: Shared<'a, f32>,
    projected: Shared<'a, f32>,
    attended: Shared<'a, f32>,
    logits: Shared<'a, f32>,
    operand: SharedOperand<'a>,
    inner: SharedOperand<'a>,
    pages: SharedPages<'a, E>,
}

/// The parts of a runner that a step reads.
#[derive(Clone, Copy)]
struct Weights<'a> {
    config: &'a DecoderConfig,
    shape: HeadShape,
    rope: &'a RopeTable,
    layers: &'a [super::Layer],
    final_norm: &'a [f32],
    head: &'a super::weights::Packed,
    unit: linear::Unit,
    set: super::lanes::VectorSet,
}

impl<E: Element> CpuRunner<E> {
    /// Fails when the batch names what does not exist.
    pub(super) fn check(&self, batch: &RunBatch) -> Result<()> {
        let config = &self.config;
        if let Some(token) = batch.tokens.iter().find(|t| **t as usize >= config.vocabulary) {
            candle_core::bail!("token {token} is outside the vocabulary");
        }
        for span in &batch.spans {
            let end = span.past + span.range.len();
            if span.range.is_empty() || end > config.max_positions {
                candle_core::bail!("a span of {} tokens up to position {end}", span.range.len());
            }
            let pages = &span.pages;
            if pages.len() * PAGE < end || pages.iter().any(|p| *p as usize >= self.pages.count()) {
                candle_core::bail!("a span of {end} positions in {} pages", pages.len());
            }
            if span.adapter.is_some_and(|slot| !self.adapters.contains_key(&slot)) {
                candle_core::bail!("an adapter that is not loaded");
            }
        }
        Ok(())
    }

    /// Goes through all layers.
    pub(super) fn step(&mut self, batch: &RunBatch) -> Result<()> {
        let plan = Plan::new(batch, &self.adapters);
        let config = &self.config;
        let (unit, set) = self.settings.unit.kernels();
        let rows = plan.rows.len();
        let tokens: Vec<u32> = plan.rows.iter().map(|row| row.token).collect();
        let tokens = Tensor::new(tokens, &Device::Cpu)?;
        self.buffers.x = values(&self.embedding.index_select(&tokens, 0)?)?;
        let queries = config.heads * config.head_dim;
        let keys = 2 * config.kv_heads * config.head_dim;
        let resize = |buffer: &mut Vec<f32>, len: usize| buffer.resize(len, 0.0);
        resize(&mut self.buffers.projected, rows * (queries + keys).max(2 * config.feed_forward));
        resize(&mut self.buffers.attended, rows * queries);
        resize(&mut self.buffers.logits, plan.wanted.len() * config.vocabulary);
        let widest = config.hidden.max(queries).max(config.feed_forward).div_ceil(STEP);
        let blocks = plan.blocks.len().max(plan.wanted_blocks.len());
        self.buffers.operand.reserve(unit, blocks, widest);
        let rank_steps = plan.adapters.iter().map(|a| a.rank_steps()).max().unwrap_or(0);
        self.buffers.inner.reserve(unit, QUERY_KEY_VALUE.len() * blocks, rank_steps);
        let step = Step {
            runner: Weights {
                config: &self.config,
                shape: self.shape,
                rope: &self.rope,
                layers: &self.layers,
                final_norm: &self.final_norm,
                head: &self.head,
                unit,
                set,
            },
            plan,
            x: Shared::new(&mut self.buffers.x),
            projected: Shared::new(&mut self.buffers.projected),
            attended: Shared::new(&mut self.buffers.attended),
            logits: Shared::new(&mut self.buffers.logits),
            operand: self.buffers.operand.shared(unit, widest),
            inner: self.buffers.inner.shared(unit, rank_steps),
            pages: self.pages.shared(),
        };
        let times = std::sync::Mutex::new(BTreeMap::new());
        self.team.run(|member| {
            let of_member = step.run(member);
            if member.is_first() {
                *times.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = of_member;
            }
        });
        let times = times.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (kind, time) in times {
            *self.times.entry(kind).or_default() += time;
        }
        Ok(())
    }
}

/// Time by kind, as one thread sees it.
struct Stopwatch {
    times: BTreeMap<&'static str, Duration>,
    since: Instant,
}

impl Stopwatch {
    /// Counts the time since the last call to `kind`.
    fn lap(&mut self, kind: &'static str) {
        let now = Instant::now();
        *self.times.entry(kind).or_default() += now - self.since;
        self.since = now;
    }
}

/// A thread's own memory.
struct Own {
    scratch: Scratch,
    state: State,
    row: Vec<f32>,
}

/// Where a projection's results go.
#[derive(Clone, Copy)]
struct Into<'a> {
    buffer: Shared<'a, f32>,
    /// Values of one row.
    width: usize,
    /// Whether they are added to what is there.
    adds: bool,
}

impl<E: Element> Step<'_, E> {
    fn run(&self, member: &Member<'_>) -> BTreeMap<&'static str, Duration> {
        let config = self.runner.config;
        let blocks = self.plan.blocks.len().max(self.plan.wanted_blocks.len());
        let widest = config.hidden.max(config.heads * config.head_dim).max(config.feed_forward);
        let mut own = Own {
            scratch: Scratch::new(self.runner.unit, blocks),
            state: State::default(),
            row: vec![0.0; widest.next_multiple_of(STEP)],
        };
        let mut watch = Stopwatch { times: BTreeMap::new(), since: Instant::now() };
        for layer in 0..self.runner.layers.len() {
            self.layer(member, layer, &mut own, &mut watch);
        }
        self.head(member, &mut own);
        watch.lap("head");
        watch.times
    }

    fn layer(&self, member: &Member<'_>, index: usize, own: &mut Own, watch: &mut Stopwatch) {
        let config = self.runner.config;
        let layer = &self.runner.layers[index];
        let queries = config.heads * config.head_dim;
        let projected = queries + 2 * config.kv_heads * config.head_dim;
        let (hidden, eps, set) = (config.hidden, config.norm_eps, self.runner.set);
        let normed = |weight: &[f32], row: usize, out: &mut [f32]| {
            // SAFETY: nobody writes to the stream until the next barrier; this processor's set.
            unsafe {
                let x = self.x.read(row * hidden..(row + 1) * hidden);
                rms_norm(set, x, weight, eps, out);
            }
        };
        let x = Into { buffer: self.x, width: hidden, adds: true };
        self.lay_out(member, hidden, own, |row, out| normed(&layer.attention_norm, row, out));
        watch.lap("other");
        let into = Into { buffer: self.projected, width: projected, adds: false };
        self.project(member, index, &QUERY_KEY_VALUE, into, own);
        watch.lap("linear");
        self.place(member, index, projected);
        watch.lap("other");
        self.attend(member, index, projected, own);
        watch.lap("attention");
        self.lay_out(member, queries, own, |row, out| {
            // SAFETY: nobody writes to it until the next barrier.
            let attended = unsafe { self.attended.read(row * queries..(row + 1) * queries) };
            out.copy_from_slice(attended);
        });
        watch.lap("other");
        self.project(member, index, &[Target::Output], x, own);
        watch.lap("linear");
        self.lay_out(member, hidden, own, |row, out| normed(&layer.feed_forward_norm, row, out));
        watch.lap("other");
        let width = config.feed_forward;
        let into = Into { buffer: self.projected, width: 2 * width, adds: false };
        self.project(member, index, &GATE_UP, into, own);
        watch.lap("linear");
        self.lay_out(member, width, own, |row, out| {
            // SAFETY: nobody writes to it until the next barrier; this processor's set.
            unsafe {
                let both = self.projected.read(row * 2 * width..(row + 1) * 2 * width);
                swiglu(set, &both[..width], &both[width..], out);
            }
        });
        watch.lap("other");
        self.project(member, index, &[Target::Down], x, own);
        watch.lap("linear");
    }

    /// Lays out every row as an operand `width` values wide; `fill` computes one.
    fn lay_out(
        &self,
        member: &Member<'_>,
        width: usize,
        own: &mut Own,
        fill: impl Fn(usize, &mut [f32]),
    ) {
        let rows = &self.plan.rows;
        let padded = width.next_multiple_of(STEP);
        let operand = self.operand.of_steps(padded / STEP);
        own.row[width..padded].fill(0.0);
        member.share(rows.len(), member.grain(rows.len()), |index| {
            let row = &rows[index];
            fill(index, &mut own.row[..width]);
            // SAFETY: this task's row.
            unsafe { operand.put(row.block, row.within, 0, &own.row[..padded]) };
        });
    }

    /// Applies maps that read the operand, with the adapters' terms; results side by side.
    fn project(
        &self,
        member: &Member<'_>,
        index: usize,
        targets: &[Target],
        into: Into<'_>,
        own: &mut Own,
    ) {
        let layer = &self.runner.layers[index];
        let blocks = &self.plan.blocks;
        let weight = |target: Target| &layer.linears[target as usize];
        let operand = self.operand.of_steps(weight(targets[0]).steps());
        if !self.plan.adapters.is_empty() {
            self.inner_values(member, index, targets, &operand, own);
        }
        let total = targets.iter().map(|target| weight(*target).panels()).sum();
        member.share(total, member.grain(total), |task| {
            let (mut panel, mut offset, mut place) = (task, 0, 0);
            while panel >= weight(targets[place]).panels() {
                panel -= weight(targets[place]).panels();
                offset += weight(targets[place]).out();
                place += 1;
            }
            let target = targets[place];
            let low_rank = |block: usize| {
                let adapter = self.plan.adapters[blocks[block].adapter?];
                let up = &adapter.map(index, target)?.up;
                Some(LowRank { inner: self.inner, first_block: place * blocks.len() + block, up })
            };
            let bias = layer.biases[target as usize].as_deref().map(|bias| &bias[panel * PANEL..]);
            // SAFETY: nobody writes to the operands until the next barrier.
            unsafe {
                linear::panel(
                    &mut own.scratch,
                    &operand,
                    blocks,
                    weight(target),
                    panel,
                    low_rank,
                    |row, results| into.put(row, offset + panel * PANEL, results, bias),
                );
            }
        });
    }

    /// Inner values of the low-rank terms of all blocks that have an adapter.
    fn inner_values(
        &self,
        member: &Member<'_>,
        index: usize,
        targets: &[Target],
        operand: &SharedOperand<'_>,
        own: &mut Own,
    ) {
        let blocks = &self.plan.blocks;
        member.share(targets.len() * blocks.len(), 1, |task| {
            let (place, at) = (task / blocks.len(), task % blocks.len());
            let block = &blocks[at];
            let adapter = block.adapter.map(|adapter| self.plan.adapters[adapter]);
            let Some(map) = adapter.and_then(|a| a.map(index, targets[place])) else { return };
            for panel in 0..map.down.panels() {
                // SAFETY: nobody writes to the operand until the next barrier; this task's block.
                unsafe {
                    linear::low_rank_inner(
                        &mut own.scratch,
                        operand,
                        (at, block),
                        (&map.down, panel),
                        &self.inner,
                        task,
                    );
                }
            }
        });
    }

    /// Norms and rotates the heads of queries and keys; puts keys and values into their pages.
    fn place(&self, member: &Member<'_>, index: usize, width: usize) {
        let Weights { config, shape, rope, .. } = self.runner;
        let layer = &self.runner.layers[index];
        let (dim, set) = (shape.head_dim, self.runner.set);
        let rows = &self.plan.rows;
        let mut normed = vec![0.0; dim];
        let mut padded = [const { Vec::new() }; 2];
        padded.iter_mut().for_each(|x: &mut Vec<f32>| x.resize(self.pages.layout.width, 0.0));
        member.share(rows.len(), member.grain(rows.len()), |at| {
            let row = &rows[at];
            // SAFETY: this task's row.
            let values = unsafe { self.projected.part(at * width..(at + 1) * width) };
            let (cos, sin) = rope.at(row.position as u32);
            let mut turn = |head: &mut [f32], norm: Option<&Vec<f32>>, scale: f32| {
                // SAFETY: this processor's set.
                unsafe {
                    if let Some(norm) = norm {
                        rms_norm(set, head, norm, config.norm_eps, &mut normed);
                        head.copy_from_slice(&normed);
                    }
                    rotate(set, head, cos, sin, scale);
                }
            };
            let (queries, keys) = values.split_at_mut(shape.query_width());
            let (keys, of_values) = keys.split_at_mut(shape.kv_width());
            for head in queries.chunks_exact_mut(dim) {
                turn(head, layer.query_norm.as_ref(), shape.scale());
            }
            let page = self.plan.batch.spans[row.span].pages[row.position / PAGE];
            let place = (page, row.position % PAGE);
            let pairs = keys.chunks_exact_mut(dim).zip(of_values.chunks_exact(dim));
            for (head, (key, value)) in pairs.enumerate() {
                turn(key, layer.key_norm.as_ref(), 1.0);
                padded[0][..dim].copy_from_slice(key);
                padded[1][..dim].copy_from_slice(value);
                // SAFETY: this processor's set; this task's position.
                unsafe {
                    self.pages.write(set, place, index, head, padded.each_ref().map(|x| &**x))
                };
            }
        });
    }

    fn attend(&self, member: &Member<'_>, layer: usize, width: usize, own: &mut Own) {
        let shape = self.runner.shape;
        let (dim, group) = (shape.head_dim, shape.group());
        let attending = &self.plan.attending;
        member.share(attending.len() * shape.kv_heads, 1, |task| {
            let (of_span, kv_head) = (&attending[task / shape.kv_heads], task % shape.kv_heads);
            let work = Work {
                pages: &self.plan.batch.spans[of_span.span].pages,
                layer,
                kv_head,
                position: of_span.position,
                tokens: of_span.tokens,
            };
            let first = kv_head * group;
            // SAFETY: nobody writes to queries and pages until the next barrier; these tokens'
            // heads are this task's.
            unsafe {
                let query = |token: usize, head: usize| {
                    let start = (of_span.first_row + token) * width + (first + head) * dim;
                    self.projected.read(start..start + dim)
                };
                let each = |token: usize, head: usize, output: &[f32]| {
                    let row = (of_span.first_row + token) * shape.query_width();
                    let start = row + (first + head) * dim;
                    self.attended.part(start..start + dim).copy_from_slice(output);
                };
                let (set, state) = (self.runner.set, &mut own.state);
                attention::attend(set, &work, shape, &self.pages, state, query, each);
            }
        });
    }

    /// The final norm and the output head, for the rows whose logits are wanted.
    fn head(&self, member: &Member<'_>, own: &mut Own) {
        let config = self.runner.config;
        let (hidden, head) = (config.hidden, self.runner.head);
        let (wanted, blocks) = (&self.plan.wanted, &self.plan.wanted_blocks);
        let padded = hidden.next_multiple_of(STEP);
        let operand = self.operand.of_steps(padded / STEP);
        own.row[hidden..padded].fill(0.0);
        member.share(wanted.len(), 1, |at| {
            let row = wanted[at];
            // SAFETY: nobody writes to the stream any more; this task's row; this processor's set.
            unsafe {
                let x = self.x.read(row * hidden..(row + 1) * hidden);
                let (set, out) = (self.runner.set, &mut own.row[..hidden]);
                rms_norm(set, x, self.runner.final_norm, config.norm_eps, out);
                operand.put(at / PANEL, at % PANEL, 0, &own.row[..padded]);
            }
        });
        let width = config.vocabulary;
        let into = Into { buffer: self.logits, width, adds: false };
        let panels = if wanted.is_empty() { 0 } else { head.panels() };
        member.share(panels, member.grain(panels), |panel| {
            let put = |row: usize, results: &[f32]| into.put(row, panel * PANEL, results, None);
            // SAFETY: nobody writes to the operand any more.
            unsafe {
                linear::panel(&mut own.scratch, &operand, blocks, head, panel, |_| None, put);
            }
        });
    }
}

impl Into<'_> {
    /// Stores some results of a row, from column `column` on.
    fn put(self, row: usize, column: usize, results: &[f32], bias: Option<&[f32]>) {
        let start = row * self.width + column;
        // SAFETY: panels of different tasks are different columns.
        let target = unsafe { self.buffer.part(start..start + results.len()) };
        match self.adds {
            true => target.iter_mut().zip(results).for_each(|(y, x)| *y += x),
            false => target.copy_from_slice(results),
        }
        if let Some(bias) = bias {
            target.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
    }
}
