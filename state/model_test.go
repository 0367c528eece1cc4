package state

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"
)

// model is what a database, or a transaction's view of it, should hold.
type model struct {
	plain  map[string]string // group, cell, suffix
	bags   map[string]string // group, cell, prefix -> values
	timers map[string]Timer  // record key
	holds  map[string]holdModel
}

type holdModel struct {
	owner Cell
	ts    int64
}

func newModel() *model {
	return &model{
		plain: map[string]string{}, bags: map[string]string{}, timers: map[string]Timer{}, holds: map[string]holdModel{},
	}
}

func (m *model) clone() *model {
	return &model{maps.Clone(m.plain), maps.Clone(m.bags), maps.Clone(m.timers), maps.Clone(m.holds)}
}

// take replaces what belongs to a group by what the other model has. Transactions of the machine own a group each.
func (m *model) take(group uint16, from *model) {
	takeGroup(m.plain, from.plain, group)
	takeGroup(m.bags, from.bags, group)
	takeGroup(m.timers, from.timers, group)
	takeGroup(m.holds, from.holds, group)
}

func takeGroup[V any](to, from map[string]V, group uint16) {
	p := string(appendPrefix(nil, group, 0)[:2])
	maps.DeleteFunc(to, func(k string, _ V) bool { return strings.HasPrefix(k, p) })
	for k, v := range from {
		if strings.HasPrefix(k, p) {
			to[k] = v
		}
	}
}

const machineGroups = 2

// machine runs one transaction per group, so that several are open at once on disjoint keys.
type machine struct {
	fs    vfs.FS
	db    *DB
	cuts  int
	plain Cell
	bag   Cell
	owner Cell

	committed *model
	tx        [machineGroups]*Tx
	view      [machineGroups]*model // of tx
}

func newMachine(t *rapid.T) *machine {
	m := &machine{fs: vfs.NewMem(), committed: newModel()}
	m.open(t, "db")
	return m
}

func (m *machine) open(t *rapid.T, dir string) {
	db, err := Open(dir, Options{FS: m.fs, MemTable: 256 << 10, CacheBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	m.db = db
	for name, c := range map[string]*Cell{"plain": &m.plain, "bag": &m.bag, "owner": &m.owner} {
		got, err := db.Cell(name)
		if err != nil {
			t.Fatal(err)
		}
		if *c != 0 && *c != got {
			t.Fatalf("cell %s was %d, is %d", name, *c, got)
		}
		*c = got
	}
	for g := range m.tx {
		m.tx[g], m.view[g] = db.Begin(), m.committed.clone()
	}
}

var (
	drawGroup  = rapid.IntRange(0, machineGroups-1)
	drawSuffix = rapid.Custom(func(t *rapid.T) []byte { return fmt.Appendf(nil, "%02d", rapid.IntRange(0, 79).Draw(t, "n")) })
	drawValue  = rapid.Custom(func(t *rapid.T) []byte {
		return bytes.Repeat([]byte(rapid.StringN(1, 3, -1).Draw(t, "text")), rapid.SampledFrom([]int{1, 1, 5000}).Draw(t, "times"))
	})
	// drawBag draws a bag's prefix: a user key, or a user key and a map key. The empty ones count.
	drawBag = rapid.Custom(func(t *rapid.T) []byte {
		p := AppendComponent(nil, []byte(rapid.SampledFrom([]string{"", "a"}).Draw(t, "key")))
		return AppendComponent(p, []byte(rapid.SampledFrom([]string{"", "x"}).Draw(t, "map key")))
	})
	drawKey  = rapid.SampledFrom([]string{"", "k", "l"})
	drawTime = rapid.Int64Range(-3, 12)
)

func (m *machine) do(t *rapid.T, f func(g uint16, tx *Tx, v *model) error) {
	g := drawGroup.Draw(t, "group")
	if err := f(uint16(g), m.tx[g], m.view[g]); err != nil {
		t.Fatal(err)
	}
}

func whole(group uint16, cell Cell, suffix []byte) string {
	return string(append(appendPrefix(nil, group, cell), suffix...))
}

func (m *machine) Set(t *rapid.T) {
	m.do(t, func(g uint16, tx *Tx, v *model) error {
		s, value := drawSuffix.Draw(t, "suffix"), drawValue.Draw(t, "value")
		v.plain[whole(g, m.plain, s)] = string(value)
		return tx.Set(g, m.plain, s, value)
	})
}

// SetMany makes so many entries that deleting them takes a range tombstone.
func (m *machine) SetMany(t *rapid.T) {
	m.do(t, func(g uint16, tx *Tx, v *model) error {
		for i := range 80 {
			s := fmt.Appendf(nil, "%02d", i)
			v.plain[whole(g, m.plain, s)] = "many"
			if err := tx.Set(g, m.plain, s, []byte("many")); err != nil {
				return err
			}
		}
		return nil
	})
}

func (m *machine) Delete(t *rapid.T) {
	m.do(t, func(g uint16, tx *Tx, v *model) error {
		s := drawSuffix.Draw(t, "suffix")
		delete(v.plain, whole(g, m.plain, s))
		return tx.Delete(g, m.plain, s)
	})
}

func (m *machine) DeleteRange(t *rapid.T) {
	m.do(t, func(g uint16, tx *Tx, v *model) error {
		lo, hi := drawSuffix.Draw(t, "lo"), drawSuffix.Draw(t, "hi")
		maps.DeleteFunc(v.plain, func(k, _ string) bool {
			return whole(g, m.plain, lo) <= k && k < whole(g, m.plain, hi)
		})
		return tx.DeleteRange(g, m.plain, lo, hi)
	})
}

func (m *machine) DeletePrefix(t *rapid.T) {
	m.do(t, func(g uint16, tx *Tx, v *model) error {
		p := drawSuffix.Draw(t, "suffix")[:rapid.IntRange(0, 2).Draw(t, "length")]
		maps.DeleteFunc(v.plain, func(k, _ string) bool { return strings.HasPrefix(k, whole(g, m.plain, p)) })
		return tx.DeletePrefix(g, m.plain, p)
	})
}

func (m *machine) Get(t *rapid.T) {
	m.do(t, func(g uint16, tx *Tx, v *model) error {
		s := drawSuffix.Draw(t, "suffix")
		value, ok, err := tx.Get(g, m.plain, s)
		if want, wantOK := v.plain[whole(g, m.plain, s)]; err == nil && (ok != wantOK || string(value) != want) {
			t.Fatalf("Get(%d, %q) is %.20q, %v; want %.20q, %v", g, s, value, ok, want, wantOK)
		}
		return err
	})
}

func (m *machine) Scan(t *rapid.T) {
	m.do(t, func(g uint16, tx *Tx, v *model) error {
		lo, hi := drawSuffix.Draw(t, "lo"), drawSuffix.Draw(t, "hi")
		var want, got []string
		for k, value := range v.plain {
			if whole(g, m.plain, lo) <= k && k < whole(g, m.plain, hi) {
				want = append(want, k[prefixLen:]+"="+value)
			}
		}
		slices.Sort(want)
		for kv, err := range tx.Scan(g, m.plain, lo, hi) {
			if err != nil {
				return err
			}
			got = append(got, string(kv.Suffix)+"="+string(kv.Value))
		}
		if !slices.Equal(got, want) {
			t.Fatalf("Scan(%d, %q, %q) is %.200q; want %.200q", g, lo, hi, got, want)
		}
		return nil
	})
}

// ScanDeleting deletes each entry that it meets.
func (m *machine) ScanDeleting(t *rapid.T) {
	m.do(t, func(g uint16, tx *Tx, v *model) error {
		for kv, err := range tx.Scan(g, m.plain, nil, nil) {
			if err != nil {
				return err
			}
			k := whole(g, m.plain, kv.Suffix)
			if v.plain[k] != string(kv.Value) {
				t.Fatalf("scan met %q = %.20q, want %.20q", kv.Suffix, kv.Value, v.plain[k])
			}
			delete(v.plain, k)
			if err := tx.Delete(g, m.plain, kv.Suffix); err != nil {
				return err
			}
		}
		p := whole(g, m.plain, nil)
		for k := range v.plain {
			if strings.HasPrefix(k, p) {
				t.Fatalf("scan did not meet %q", k[prefixLen:])
			}
		}
		return nil
	})
}

func (m *machine) Append(t *rapid.T) {
	m.do(t, func(g uint16, tx *Tx, v *model) error {
		p, value := drawBag.Draw(t, "bag"), drawValue.Draw(t, "value")
		v.bags[whole(g, m.bag, p)] += string(value)
		return tx.Append(g, m.bag, p, value)
	})
}

// ClearBags removes a bag, or all bags of a user key.
func (m *machine) ClearBags(t *rapid.T) {
	m.do(t, func(g uint16, tx *Tx, v *model) error {
		p := drawBag.Draw(t, "bag")
		if rapid.Bool().Draw(t, "whole key") {
			_, rest, _ := CutComponent(p)
			p = p[:len(p)-len(rest)]
		}
		maps.DeleteFunc(v.bags, func(k, _ string) bool { return strings.HasPrefix(k, whole(g, m.bag, p)) })
		return tx.DeletePrefix(g, m.bag, p)
	})
}

func (m *machine) ReadBag(t *rapid.T) {
	m.do(t, func(g uint16, tx *Tx, v *model) error {
		p := drawBag.Draw(t, "bag")
		var got []byte
		for kv, err := range tx.ScanPrefix(g, m.bag, p) {
			if err != nil {
				return err
			}
			got = append(got, kv.Value...)
		}
		if want := v.bags[whole(g, m.bag, p)]; string(got) != want {
			t.Fatalf("bag %q of group %d is %.50q, want %.50q", p, g, got, want)
		}
		return nil
	})
}

func drawTimer(t *rapid.T, g uint16, owner Cell) Timer {
	return Timer{
		Group: g, Owner: owner,
		Domain:  Domain(rapid.IntRange(1, 2).Draw(t, "domain")),
		Family:  rapid.SampledFrom([]string{"", "f"}).Draw(t, "family"),
		Tag:     rapid.SampledFrom([]string{"", "t"}).Draw(t, "tag"),
		Key:     []byte(drawKey.Draw(t, "key")),
		Window:  []byte(drawKey.Draw(t, "window")),
		Fire:    drawTime.Draw(t, "fire"),
		Hold:    rapid.OneOf(drawTime, rapid.Just(NoHold)).Draw(t, "hold"),
		Payload: []byte(rapid.SampledFrom([]string{"", "pane"}).Draw(t, "payload")),
	}
}

func (m *machine) SetTimer(t *rapid.T) {
	m.do(t, func(g uint16, tx *Tx, v *model) error {
		timer := drawTimer(t, g, m.owner)
		v.timers[string(appendTimerKey(nil, timer.ID()))] = timer
		return tx.SetTimer(timer)
	})
}

func (m *machine) ClearTimer(t *rapid.T) {
	m.do(t, func(g uint16, tx *Tx, v *model) error {
		timer := drawTimer(t, g, m.owner)
		delete(v.timers, string(appendTimerKey(nil, timer.ID())))
		return tx.ClearTimer(timer.ID())
	})
}

// Fire clears the timers that are due, as the engine does.
func (m *machine) Fire(t *rapid.T) {
	m.do(t, func(g uint16, tx *Tx, v *model) error {
		n := rapid.IntRange(1, 20).Draw(t, "at most")
		for timer, err := range m.db.DueTimers(m.owner, EventTime, g, g+1, drawTime.Draw(t, "up to")) {
			if err != nil {
				return err
			}
			delete(v.timers, string(appendTimerKey(nil, timer.ID())))
			if err := tx.ClearTimer(timer.ID()); err != nil {
				return err
			}
			if n--; n == 0 {
				break
			}
		}
		return nil
	})
}

func (m *machine) SetHold(t *rapid.T) {
	m.do(t, func(g uint16, tx *Tx, v *model) error {
		key, window, ts := drawKey.Draw(t, "key"), drawKey.Draw(t, "window"), drawTime.Draw(t, "hold")
		v.holds[whole(g, m.owner, []byte(key+"|"+window))] = holdModel{m.owner, ts}
		return tx.SetHold(m.owner, g, []byte(key), []byte(window), ts)
	})
}

func (m *machine) ClearHold(t *rapid.T) {
	m.do(t, func(g uint16, tx *Tx, v *model) error {
		key, window := drawKey.Draw(t, "key"), drawKey.Draw(t, "window")
		delete(v.holds, whole(g, m.owner, []byte(key+"|"+window)))
		return tx.ClearHold(m.owner, g, []byte(key), []byte(window))
	})
}

func (m *machine) Commit(t *rapid.T) {
	g := drawGroup.Draw(t, "group")
	if m.tx[g].Size() < 0 {
		t.Fatalf("size is %d", m.tx[g].Size())
	}
	if err := m.tx[g].Commit(); err != nil {
		t.Fatal(err)
	}
	m.committed.take(uint16(g), m.view[g])
	m.tx[g], m.view[g] = m.db.Begin(), m.committed.clone()
	m.check(t)
}

func (m *machine) Discard(t *rapid.T) {
	g := drawGroup.Draw(t, "group")
	m.tx[g].Discard()
	m.tx[g], m.view[g] = m.db.Begin(), m.committed.clone()
}

// Flush moves everything into files, where it meets other code paths.
func (m *machine) Flush(t *rapid.T) {
	if err := m.db.pdb.Flush(); err != nil {
		t.Fatal(err)
	}
}

// Update reads, clears and appends to a bag, as value states do, a few times.
func (m *machine) Update(t *rapid.T) {
	p := drawBag.Draw(t, "bag")
	m.do(t, func(g uint16, tx *Tx, v *model) error {
		for i := range rapid.IntRange(1, 3).Draw(t, "times") {
			if got, want := bagOf(t, tx, g, m.bag, string(p)), v.bags[whole(g, m.bag, p)]; got != want {
				t.Fatalf("bag %q of group %d is %.50q, want %.50q", p, g, got, want)
			}
			if err := tx.DeletePrefix(g, m.bag, p); err != nil {
				return err
			}
			delete(v.bags, whole(g, m.bag, p))
			if rapid.Bool().Draw(t, "write") {
				v.bags[whole(g, m.bag, p)] = fmt.Sprint("value ", i)
				if err := tx.Append(g, m.bag, p, fmt.Append(nil, "value ", i)); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// Crash goes on with the files as they are after a flush, without a Cut.
func (m *machine) Crash(t *rapid.T) {
	m.Flush(t)
	if err := m.db.Close(); err != nil {
		t.Fatal(err)
	}
	m.open(t, m.db.dir)
	m.check(t)
}

// Reopen goes on with a Cut. What was not committed is lost.
func (m *machine) Reopen(t *rapid.T) {
	m.cuts++
	dir := fmt.Sprintf("cut%d", m.cuts)
	if err := m.db.Cut(dir); err != nil {
		t.Fatal(err)
	}
	if rapid.Bool().Draw(t, "close without cut") {
		// What is written after the Cut is in neither.
		tx := m.db.Begin()
		if err := tx.Set(0, m.plain, []byte("00"), []byte("lost")); err != nil {
			t.Fatal(err)
		}
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.db.Close(); err != nil {
		t.Fatal(err)
	}
	m.open(t, dir)
	m.check(t)
}

// check compares all that is committed.
func (m *machine) check(t *rapid.T) {
	plain, bags := map[string]string{}, map[string]string{}
	for g := range uint16(machineGroups) {
		for kv, err := range m.db.Scan(g, m.plain, nil, nil) {
			if err != nil {
				t.Fatal(err)
			}
			plain[whole(g, m.plain, kv.Suffix)] = string(kv.Value)
		}
		for kv, err := range m.db.Scan(g, m.bag, nil, nil) {
			if err != nil {
				t.Fatal(err)
			}
			bags[whole(g, m.bag, kv.Suffix[:len(kv.Suffix)-seqLen])] += string(kv.Value)
		}
	}
	if !maps.Equal(plain, m.committed.plain) {
		t.Fatalf("committed is %.300q, want %.300q", plain, m.committed.plain)
	}
	if !maps.Equal(bags, m.committed.bags) {
		t.Fatalf("committed bags are %.300q, want %.300q", bags, m.committed.bags)
	}
	g0 := drawGroup.Draw(t, "g0")
	g1 := rapid.IntRange(g0, machineGroups).Draw(t, "g1")
	upTo := drawTime.Draw(t, "up to")
	for _, domain := range []Domain{EventTime, ProcessingTime} {
		m.checkTimers(t, domain, uint16(g0), uint16(g1), upTo)
	}
	least, any := int64(math.MaxInt64), false
	for _, timer := range m.committed.timers {
		if timer.Hold != NoHold {
			least, any = min(least, timer.Hold), true
		}
	}
	for _, h := range m.committed.holds {
		least, any = min(least, h.ts), true
	}
	if got, ok := m.db.MinHold(m.owner); ok != any || (ok && got != least) {
		t.Fatalf("MinHold is %d, %v; want %d, %v", got, ok, least, any)
	}
}

func (m *machine) checkTimers(t *rapid.T, domain Domain, g0, g1 uint16, upTo int64) {
	var want, got []Timer
	next, any := int64(math.MaxInt64), false
	for _, timer := range m.committed.timers {
		if timer.Domain != domain || timer.Group < g0 || timer.Group >= g1 {
			continue
		}
		next, any = min(next, timer.Fire), true
		if timer.Fire <= upTo {
			want = append(want, timer)
		}
	}
	if fire, ok := m.db.NextTimer(m.owner, domain, g0, g1); ok != any || (ok && fire != next) {
		t.Fatalf("NextTimer(%d, %d, %d) is %d, %v; want %d, %v", domain, g0, g1, fire, ok, next, any)
	}
	slices.SortFunc(want, func(a, b Timer) int {
		return cmp.Or(cmp.Compare(a.Fire, b.Fire), cmp.Compare(a.Group, b.Group),
			bytes.Compare(appendTimerKey(nil, a.ID()), appendTimerKey(nil, b.ID())))
	})
	for timer, err := range m.db.DueTimers(m.owner, domain, g0, g1, upTo) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, timer)
	}
	if a, b := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); a != b {
		t.Fatalf("DueTimers(%d, %d, %d, %d) are\n%s\nwant\n%s", domain, g0, g1, upTo, a, b)
	}
}

func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(t)
		defer func() {
			if err := m.db.Close(); err != nil {
				t.Fatal(err)
			}
		}()
		t.Repeat(map[string]func(*rapid.T){
			"Set": m.Set, "SetMany": m.SetMany, "Delete": m.Delete, "DeleteRange": m.DeleteRange, "DeletePrefix": m.DeletePrefix,
			"Get": m.Get, "Scan": m.Scan, "ScanDeleting": m.ScanDeleting,
			"Append": m.Append, "Append again": m.Append, "ClearBags": m.ClearBags, "ReadBag": m.ReadBag,
			"SetTimer": m.SetTimer, "SetTimer again": m.SetTimer, "ClearTimer": m.ClearTimer, "Fire": m.Fire,
			"SetHold": m.SetHold, "ClearHold": m.ClearHold,
			"Commit": m.Commit, "Discard": m.Discard, "Flush": m.Flush, "Reopen": m.Reopen, "Crash": m.Crash, "Check": m.check,
			"Update": m.Update, "Update again": m.Update, "Commit again": m.Commit, "SetTimers": m.SetTimer,
		})
	})
}

func TestHoldSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newHoldSet(8)
		var held []int64
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				got, ok := s.min()
				if ok != (len(held) > 0) {
					t.Fatalf("min ok is %v with %d holds", ok, len(held))
				}
				if want := slices.Min(append(slices.Clone(held), math.MaxInt64)); ok && (got > want || want-got >= 1<<s.shift) {
					t.Fatalf("min is %d, true one %d, buckets of %d ms", got, want, int64(1)<<s.shift)
				}
				if s.buckets.Len() > 8 {
					t.Fatalf("%d buckets", s.buckets.Len())
				}
			},
			"add": func(t *rapid.T) {
				ts := rapid.Int64Range(-1000, 1000).Draw(t, "ts")
				held = append(held, ts)
				s.add(ts, 1)
			},
			"remove": func(t *rapid.T) {
				if len(held) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(held)-1).Draw(t, "index")
				s.add(held[i], -1)
				held = slices.Delete(held, i, i+1)
			},
			"store": func(t *rapid.T) {
				var err error
				if s, err = decodeHoldSet(s.encode(nil), 8); err != nil {
					t.Fatal(err)
				}
			},
		})
	})
}

func TestFront(t *testing.T) {
	drawIndexKey := rapid.Custom(func(t *rapid.T) string {
		return string(appendIndexKey(nil, 0, 16, EventTime, rapid.Int64Range(0, 5).Draw(t, "fire"), nil))
	})
	rapid.Check(t, func(t *rapid.T) {
		f := front{first: string(appendTimerClass(nil, 0, 16, EventTime))}
		keys := map[string]bool{}
		least := func() string { return slices.Min(append(slices.Collect(maps.Keys(keys)), noTimer)) }
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				if f.first > least() || (f.exact && f.first != least()) {
					t.Fatalf("first is %x, exact %v; the least key is %x", f.first, f.exact, least())
				}
			},
			"add": func(t *rapid.T) {
				k := drawIndexKey.Draw(t, "key")
				keys[k] = true
				f.add(k)
			},
			"remove": func(t *rapid.T) {
				k := drawIndexKey.Draw(t, "key")
				if !keys[k] {
					t.Skip()
				}
				delete(keys, k)
				f.remove(k)
			},
			"resolve": func(*rapid.T) {
				if f.first = least(); f.first != noTimer {
					f.exact, f.rest = true, f.first+"\x00"
				}
			},
		})
	})
}
