package state

import (
	"encoding/binary"
	"fmt"
)

// Size estimates the bytes in files of all cells whose name matches, in key groups below groups, with the timers and holds
// that they own. What is still in memory is not counted: see Metrics.MemTableBytes. It costs some microseconds a cell and
// group. A closed DB has ErrClosed.
func (db *DB) Size(match func(name string) bool, groups int) (int64, error) {
	if err := db.enter(); err != nil {
		return 0, err
	}
	defer db.leave()
	var cells []Cell
	db.cellsMu.Lock()
	for name, c := range db.cells {
		if match(name) {
			cells = append(cells, c)
		}
	}
	db.cellsMu.Unlock()
	total := uint64(0)
	for g := range uint16(min(groups, MaxGroup+1)) {
		for _, c := range cells {
			prefixes := [][]byte{appendPrefix(nil, g, c)}
			for _, own := range []Cell{cellTimer, cellTimerIndex, cellHold} {
				prefixes = append(prefixes, binary.BigEndian.AppendUint32(appendPrefix(nil, g, own), uint32(c)))
			}
			for _, p := range prefixes {
				n, err := db.pdb.EstimateDiskUsage(p, prefixEnd(append([]byte(nil), p...)))
				if err != nil {
					return 0, fmt.Errorf("estimate size of state %s: %w", db.dir, err)
				}
				total += n
			}
		}
	}
	return int64(total), nil
}
