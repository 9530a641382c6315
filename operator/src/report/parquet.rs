//! The table of trials as Parquet: for data frames of many experiments, with types and true nulls.

use std::sync::Arc;

use ::parquet::{
    basic::{LogicalType, Repetition, Type as PhysicalType},
    data_type::{ByteArray, ByteArrayType, DoubleType, Int32Type},
    errors::ParquetError,
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::types::{Type, TypePtr},
};

use super::{
    Report, ReportError,
    trials::{Cells, TrialColumn, columns},
};

/// One row per trial, with the columns of [`super::csv()`]: texts, 32-bit whole numbers and doubles, each of which may be null.
pub fn parquet(report: &Report<'_>) -> Result<Vec<u8>, ReportError> {
    write(report).map_err(ReportError::Parquet)
}

fn write(report: &Report<'_>) -> Result<Vec<u8>, ParquetError> {
    let columns = columns(report);
    let fields: Result<Vec<TypePtr>, ParquetError> = columns.iter().map(|column| field(column).map(Arc::new)).collect();
    let schema = Type::group_type_builder("trial").with_fields(fields?).build()?;
    let properties = WriterProperties::builder()
        .set_created_by(report.generated_by.to_owned())
        .build();
    let mut file = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::new(properties))?;
    let mut rows = file.next_row_group()?;
    for column in &columns {
        let Some(mut writer) = rows.next_column()? else {
            break;
        };
        match &column.cells {
            Cells::Text(texts) => {
                let texts: Vec<Option<ByteArray>> = texts.iter().map(|text| text.as_deref().map(Into::into)).collect();
                let (values, levels) = present(&texts);
                writer
                    .typed::<ByteArrayType>()
                    .write_batch(&values, Some(&levels), None)?;
            }
            Cells::Integer(numbers) => {
                let (values, levels) = present(numbers);
                writer.typed::<Int32Type>().write_batch(&values, Some(&levels), None)?;
            }
            Cells::Number(numbers) => {
                let (values, levels) = present(numbers);
                writer.typed::<DoubleType>().write_batch(&values, Some(&levels), None)?;
            }
        }
        writer.close()?;
    }
    rows.close()?;
    file.into_inner()
}

fn field(column: &TrialColumn) -> Result<Type, ParquetError> {
    let (physical, logical) = match column.cells {
        Cells::Text(_) => (PhysicalType::BYTE_ARRAY, Some(LogicalType::String)),
        Cells::Integer(_) => (PhysicalType::INT32, None),
        Cells::Number(_) => (PhysicalType::DOUBLE, None),
    };
    Type::primitive_type_builder(&column.name, physical)
        .with_logical_type(logical)
        .with_repetition(Repetition::OPTIONAL)
        .build()
}

/// The values that are there, and for each cell whether it is (definition level 1) or not (0).
fn present<T: Clone>(cells: &[Option<T>]) -> (Vec<T>, Vec<i16>) {
    let levels = cells.iter().map(|cell| i16::from(cell.is_some())).collect();
    (cells.iter().flatten().cloned().collect(), levels)
}

#[cfg(test)]
mod tests {
    use ::parquet::{
        file::reader::{FileReader, SerializedFileReader},
        record::Field,
    };
    use bytes::Bytes;

    use super::*;
    use crate::report::fixture::Fixture;

    #[test]
    fn every_cell_of_the_table_is_read_back_with_its_type_and_nulls_are_null() {
        let fixture = Fixture::new();
        let report = fixture.report();
        let reader = SerializedFileReader::new(Bytes::from(parquet(&report).unwrap())).unwrap();
        let columns = columns(&report);
        let mut rows = 0;
        for (index, row) in reader.get_row_iter(None).unwrap().enumerate() {
            rows += 1;
            for ((name, field), column) in row.unwrap().get_column_iter().zip(&columns) {
                assert_eq!(*name, column.name);
                let expected = match &column.cells {
                    Cells::Text(texts) => texts[index].clone().map(Field::Str),
                    Cells::Integer(numbers) => numbers[index].map(Field::Int),
                    Cells::Number(numbers) => numbers[index].map(Field::Double),
                };
                assert_eq!(*field, expected.unwrap_or(Field::Null), "{name} of row {index}");
            }
        }
        assert_eq!(rows, report.trials.len());
        assert!(
            rows > 0
                && columns
                    .iter()
                    .any(|column| matches!(&column.cells, Cells::Number(all) if all.contains(&None)))
        );
    }
}
