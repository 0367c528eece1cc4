package state

import "slices"

// Cells returns the cells whose name matches, in ascending order.
func (db *DB) Cells(match func(name string) bool) []Cell {
	db.cellsMu.Lock()
	defer db.cellsMu.Unlock()
	var cells []Cell
	for name, c := range db.cells {
		if match(name) {
			cells = append(cells, c)
		}
	}
	slices.Sort(cells)
	return cells
}
