package plan

// URNs of transforms, from beam_runner_api.proto (StandardPTransforms) and beam_fn_api.proto.
const (
	urnImpulse    = "beam:transform:impulse:v1"
	urnGBK        = "beam:transform:group_by_key:v1"
	urnFlatten    = "beam:transform:flatten:v1"
	urnTestStream = "beam:transform:teststream:v1"
	urnParDo      = "beam:transform:pardo:v1"

	urnReshuffle             = "beam:transform:reshuffle:v1"
	urnRedistributeArbitrary = "beam:transform:redistribute_arbitrarily:v1"
	urnRedistributeByKey     = "beam:transform:redistribute_by_key:v1"

	urnCombinePerKey        = "beam:transform:combine_per_key:v1"
	urnPrecombine           = "beam:transform:combine_per_key_precombine:v1"
	urnMergeAccumulators    = "beam:transform:combine_per_key_merge_accumulators:v1"
	urnExtractOutputs       = "beam:transform:combine_per_key_extract_outputs:v1"
	urnConvertToAccumulator = "beam:transform:combine_per_key_convert_to_accumulators:v1"
	urnCombineGroupedValues = "beam:transform:combine_grouped_values:v1"

	urnPairWithRestriction = "beam:transform:sdf_pair_with_restriction:v1"
	urnSplitAndSize        = "beam:transform:sdf_split_and_size_restrictions:v1"
	urnProcessSized        = "beam:transform:sdf_process_sized_element_and_restrictions:v1"
	urnTruncateSized       = "beam:transform:sdf_truncate_sized_restrictions:v1"

	urnWindowInto   = "beam:transform:window_into:v1"
	urnMapWindows   = "beam:transform:map_windows:v1"
	urnMergeWindows = "beam:transform:merge_windows:v1"
	urnToString     = "beam:transform:to_string:v1"
	// urnPythonRead reads a bounded source that an impulse starts: Python's way around the Read primitive.
	urnPythonRead = "beam:transform:read_from_impulse_python:v1"
	// urnRead is the Read primitive of runners before portability.
	urnRead = "beam:transform:read:v1"

	urnDataSource = "beam:runner:source:v1"
	urnDataSink   = "beam:runner:sink:v1"
)

const (
	urnIterableSideInput = "beam:side_input:iterable:v1"
	urnMultimapSideInput = "beam:side_input:multimap:v1"

	urnBagState         = "beam:user_state:bag:v1"
	urnMultimapState    = "beam:user_state:multimap:v1"
	urnOrderedListState = "beam:user_state:ordered_list:v1"

	urnGlobalWindows  = "beam:window_fn:global_windows:v1"
	urnSessionWindows = "beam:window_fn:session_windows:v1"

	// urnCoGBKList marks, in a coder of the Go SDK, the value of a CoGroupByKey with several inputs. It is no coder: such
	// elements exist inside the SDK only.
	urnCoGBKList = "beam:go:coder:cogbklist:v1"
)

// inSDK says whether a leaf with this URN runs in an SDK worker.
func inSDK(urn string) bool {
	switch urn {
	case urnParDo, urnPairWithRestriction, urnSplitAndSize, urnProcessSized, urnTruncateSized,
		urnPrecombine, urnMergeAccumulators, urnExtractOutputs, urnConvertToAccumulator, urnCombineGroupedValues,
		urnWindowInto, urnMapWindows, urnMergeWindows, urnToString, urnPythonRead:
		return true
	}
	return false
}

// hasParDoPayload says whether the payload of a transform with this URN is a ParDoPayload.
func hasParDoPayload(urn string) bool {
	switch urn {
	case urnParDo, urnPairWithRestriction, urnSplitAndSize, urnProcessSized, urnTruncateSized:
		return true
	}
	return false
}

// hasCombinePayload says whether the payload of a transform with this URN is a CombinePayload.
func hasCombinePayload(urn string) bool {
	switch urn {
	case urnCombinePerKey, urnPrecombine, urnMergeAccumulators, urnExtractOutputs, urnConvertToAccumulator,
		urnCombineGroupedValues:
		return true
	}
	return false
}

// supportedRequirement says whether the runner meets a requirement of a pipeline (StandardRequirements).
func supportedRequirement(urn string) bool {
	switch urn {
	case "beam:requirement:pardo:stateful:v1",
		"beam:requirement:pardo:finalization:v1",
		"beam:requirement:pardo:stable_input:v1",
		"beam:requirement:pardo:time_sorted_input:v1",
		"beam:requirement:pardo:splittable_dofn:v1",
		"beam:requirement:pardo:on_window_expiration:v1":
		return true
	}
	return false
}
