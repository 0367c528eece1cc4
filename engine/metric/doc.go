// Package metric adds up metrics: the payloads of Beam's monitoring infos, each type in its own way.
//
// A Value holds what was added so far in decoded form, so that a bundle's payloads cost one reading and no writing:
//
//	v := metric.New("beam:metrics:sum_int64:v1")
//	err := v.Add(payload) // of one bundle, and so on
//	sum := v.Append(nil)  // a payload of the same type
//
// Payloads come from user processes. One that cannot be read is refused, and leaves the Value as it was; none makes it
// panic. The types and their encodings are those of MonitoringInfoTypeUrns in metrics.proto:
//
//	sum_int64, sum_double                        the sum
//	distribution_int64, distribution_double      count, sum, least and greatest value
//	latest_int64, latest_double                  the value with the greatest timestamp, of equal ones the one added last
//	top_n_*, bottom_n_*                          the greatest or least values, as many as the longest payload had
//	set_string                                   the union, as long as it is below 1 MB
//	bounded_trie                                 the union, its paths cut short until they are within the bound
//	histogram_int64                              the sum of each bucket; the buckets must be the same
//	progress, and types that are not known here  the payload added last
package metric
